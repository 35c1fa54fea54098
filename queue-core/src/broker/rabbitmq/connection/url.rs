//! Parses `amqp://` URLs. One URL serves Leveret and pika alike: the same query options mean the same.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::transport::Config;
use crate::error::{Error, Result};
use crate::topology::MAX_NAME;

/// Where and how to connect.
#[derive(Clone)]
pub(crate) struct Target {
    /// Tried in this order, from the one that last worked.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
    /// `None` is plain TCP.
    pub(crate) tls: Option<Tls>,
    /// The value that we ask for; the server may ask for less. 0 leaves it to the server.
    pub(super) heartbeat: u16,
    /// How long the server may block publishers before the connection is given up; `None` waits for ever.
    pub(crate) blocked_timeout: Option<Duration>,
    /// How often the first connect is tried, over all hosts.
    pub(crate) attempts: u32,
    /// The pause between those.
    pub(crate) retry_delay: Duration,
    /// One deadline over TCP, TLS, login and the declares that follow.
    pub(crate) deadline: Duration,
    pub(super) channel_max: Option<u16>,
    pub(super) frame_max: Option<u32>,
    pub(super) locale: Option<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

/// The certificates, beside those that the system trusts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tls {
    /// The trusted authorities, in PEM.
    pub(crate) ca: Option<String>,
    /// Our certificate and key, in PEM.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the server's certificate, where it is not the host's.
    pub(super) server_name: Option<String>,
    /// The configuration of rustls.
    pub(super) config: Config,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Debug for Target {
    /// Without the password: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "{}@{} vhost {}", self.user, hosts.join(","), self.vhost)
    }
}

impl Target {
    /// Reads a URL: `amqp://user:password@host,host:port/vhost?heartbeat=10`.
    ///
    /// Errors never repeat the password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            Error::config("the broker's URL lacks `://`: write `amqp://user:password@host:5672/vhost`")
        })?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => {
                return Err(Error::config(format!(
                    "a RabbitMQ URL begins with `amqp://`, or with `amqps://` for TLS, and not with `{scheme}://`"
                )));
            }
        };
        refuse_cut_login(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last `@` ends the password: people forget to encode one inside it.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, pass)| (user, Some(pass)));
        let user = decode("user name", user)?;
        let password = password.map(|password| decode("password", password)).transpose()?;
        let vhost = decode("vhost", path)?;
        let mut target = Self {
            hosts: parse_hosts(hosts, if tls { 5671 } else { 5672 })?,
            // A user name in the URL means that user's password, also if it is empty.
            password: password
                .unwrap_or_else(|| if user.is_empty() { "guest".into() } else { String::new() }),
            user: if user.is_empty() { "guest".into() } else { user },
            vhost: if vhost.is_empty() { "/".into() } else { vhost },
            tls: tls.then(Tls::default),
            heartbeat: 15,
            blocked_timeout: None,
            attempts: 3,
            retry_delay: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            channel_max: None,
            frame_max: None,
            locale: None,
        };
        if target.vhost.len() > MAX_NAME {
            return Err(Error::config(format!(
                "the vhost in the URL has {} bytes; AMQP carries at most {MAX_NAME}",
                target.vhost.len()
            )));
        }
        target.read_query(query)?;
        Ok(target)
    }

    fn read_query(&mut self, query: &str) -> Result<()> {
        let mut certificate = None;
        let mut key = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(name, value)?;
            match name {
                "heartbeat" => self.heartbeat = number(name, &value)?,
                "blocked_connection_timeout" => self.blocked_timeout = optional_seconds(name, &value)?,
                "connection_attempts" => {
                    self.attempts = number(name, &value)?;
                    if self.attempts == 0 {
                        return Err(bad_value(name, &value, "at least 1"));
                    }
                }
                "retry_delay" => self.retry_delay = seconds(name, &value)?,
                "socket_timeout" | "stack_timeout" => {
                    self.deadline = seconds(name, &value)?;
                    if self.deadline.is_zero() {
                        return Err(bad_value(name, &value, "more than 0 seconds"));
                    }
                }
                // The Erlang client's name for it, in milliseconds.
                "connection_timeout" => {
                    self.deadline = Duration::from_millis(number::<u32>(name, &value)?.into());
                    if self.deadline.is_zero() {
                        return Err(bad_value(name, &value, "more than 0 milliseconds"));
                    }
                }
                "channel_max" => self.channel_max = Some(number(name, &value)?),
                "frame_max" => {
                    let size: u32 = number(name, &value)?;
                    // RabbitMQ 4.1 refuses less, and all our headers must fit one frame.
                    if size != 0 && size < 65_536 {
                        return Err(bad_value(
                            name,
                            &value,
                            "0, or 65536 and more, since headers must fit one frame",
                        ));
                    }
                    self.frame_max = Some(size);
                }
                "locale" => self.locale = Some(value),
                "cacertfile" => {
                    self.tls(name)?;
                    let pem = read_pem(name, &value, "CERTIFICATE")?;
                    self.tls(name)?.ca = Some(String::from_utf8_lossy(&pem).into_owned());
                }
                "certfile" => certificate = Some(read_pem(name, &value, "CERTIFICATE")?),
                "keyfile" => key = Some(read_pem(name, &value, "PRIVATE KEY")?),
                "server_name" | "server_name_indication" => self.tls(name)?.server_name = Some(value),
                "verify" if value == "verify_peer" => {}
                "verify" => {
                    return Err(bad_value(
                        name,
                        &value,
                        "`verify_peer`; for a certificate of your own name its authority with `cacertfile`",
                    ));
                }
                // Asked of servers; RabbitMQ's URI syntax lets it stand here.
                "fail_if_no_peer_cert" | "depth" | "backpressure_detection" => {}
                "tcp_options" | "client_properties" => {
                    tracing::warn!(option = name, "the URL's option has no meaning here and is ignored");
                }
                "ssl_options" => {
                    return Err(Error::config(
                        "the URL's `ssl_options` is a Python literal: write `cacertfile=`, `certfile=`, `keyfile=` \
                         and `server_name=` instead, with an `amqps://` URL",
                    ));
                }
                _ => {
                    return Err(Error::config(format!(
                        "the URL's option `{name}` is unknown; known are heartbeat, blocked_connection_timeout, \
                         connection_attempts, retry_delay, socket_timeout, stack_timeout, channel_max, frame_max, locale, \
                         cacertfile, certfile, keyfile, server_name and verify"
                    )));
                }
            }
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => self.tls("certfile")?.identity = Some((certificate, key)),
            (None, None) => {}
            _ => return Err(Error::config("the URL's `certfile` and `keyfile` go together: give both")),
        }
        Ok(())
    }

    fn tls(&mut self, option: &str) -> Result<&mut Tls> {
        self.tls.as_mut().ok_or_else(|| {
            Error::config(format!("the URL's `{option}` is about TLS: begin the URL with `amqps://`"))
        })
    }
}

/// Refuses a URL whose `@` stands behind what ends the login and the hosts: a `/` or `?` in the password has cut it in
/// two, and what is left of it would be taken for a host and its port. A `#` alone ends nothing here, and may stay.
fn refuse_cut_login(rest: &str) -> Result<()> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    if authority.contains('@') || !behind.contains('@') {
        return Ok(());
    }
    // Without a word of the URL: any of them may be the password's.
    Err(Error::config(
        "the broker's URL has an `@` behind its first `/` or `?`, and none before: is the password percent-encoded? `@` \
         is `%40`, `/` is `%2F`, `?` is `%3F`, `#` is `%23`, `%` is `%25`",
    ))
}

fn parse_hosts(hosts: &str, default_port: u16) -> Result<Vec<Host>> {
    let mut found = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(literal) => {
                let (name, port) = literal.split_once(']').ok_or_else(|| {
                    Error::config(format!(
                        "host `{host}` in the URL begins an IPv6 address with `[` and lacks `]`"
                    ))
                })?;
                (name, port.strip_prefix(':').unwrap_or(port))
            }
            None if host.matches(':').count() > 1 => {
                return Err(Error::config(format!(
                    "write the IPv6 address `{host}` as `[{host}]` in the URL"
                )));
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        let port = match port {
            "" => default_port,
            port => port.parse().map_err(|_| {
                Error::config(format!(
                    "port `{port}` of host `{name}` in the URL is no number from 1 to 65535"
                ))
            })?,
        };
        let name = decode("host", name)?;
        let name = if name.is_empty() { "localhost".to_owned() } else { name };
        found.push(Host { name, port });
    }
    Ok(found)
}

fn decode(what: &str, text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| {
        Error::config(format!("the {what} in the URL is not UTF-8 once its %-escapes are decoded"))
    })
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| bad_value(name, value, "a whole number"))
}

/// pika takes fractions of seconds.
fn seconds(name: &str, value: &str) -> Result<Duration> {
    let seconds = value.parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| duration.as_secs() < 1_000_000_000)
        .ok_or_else(|| bad_value(name, value, "seconds, such as 5 or 0.5"))
}

fn optional_seconds(name: &str, value: &str) -> Result<Option<Duration>> {
    if value == "None" {
        return Ok(None);
    }
    seconds(name, value).map(|duration| (!duration.is_zero()).then_some(duration))
}

fn bad_value(name: &str, value: &str, wanted: &str) -> Error {
    Error::config(format!("the URL's `{name}={value}` cannot be used: give {wanted}"))
}

/// Reads a PEM file, in which there must be a block of this label.
fn read_pem(option: &str, path: &str, label: &str) -> Result<Vec<u8>> {
    let pem = std::fs::read(path).map_err(|error| {
        Error::config(format!("the URL's `{option}={path}` cannot be read")).with_source(error)
    })?;
    if String::from_utf8_lossy(&pem).lines().any(|line| is_label(line, label)) {
        return Ok(pem);
    }
    Err(Error::config(format!(
        "the URL's `{option}={path}` holds no {}: name a PEM file with a line `-----BEGIN {label}-----`",
        label.to_lowercase()
    )))
}

/// Also `BEGIN RSA PRIVATE KEY` and the like; but rustls passes over `BEGIN TRUSTED CERTIFICATE`.
fn is_label(line: &str, label: &str) -> bool {
    line.trim()
        .strip_prefix("-----BEGIN ")
        .and_then(|line| line.strip_suffix("-----"))
        .is_some_and(|is| is == label || label == "PRIVATE KEY" && is.ends_with(" PRIVATE KEY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    fn refusal(url: &str) -> String {
        Target::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn empty_path_slash_and_escaped_slash_are_the_default_vhost() {
        for url in ["amqp://h", "amqp://h/", "amqp://h/%2f", "amqp://h/%2F?heartbeat=5"] {
            assert_eq!(parse(url).vhost, "/", "{url}");
        }
        assert_eq!(parse("amqp://h/my%20host").vhost, "my host");
    }

    #[test]
    fn defaults_are_a_guest_on_localhost() {
        let target = parse("amqp://");

        assert_eq!(target.hosts, [Host { name: "localhost".into(), port: 5672 }]);
        assert_eq!((target.user.as_str(), target.password.as_str()), ("guest", "guest"));
        assert_eq!(target.heartbeat, 15);
        assert_eq!(parse("amqps://h").hosts[0].port, 5671);
    }

    #[test]
    fn several_hosts_ports_and_ipv6_literals_are_read() {
        let target = parse("amqp://u:p%40ss@a,b:5673,[::1],[fd00::5]:99/v");

        let hosts: Vec<_> = target.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a:5672", "b:5673", "[::1]:5672", "[fd00::5]:99"]);
        assert_eq!(target.hosts[2].name, "::1");
        assert_eq!(target.password, "p@ss");
        assert!(refusal("amqp://fd00::5/").contains("[fd00::5]"));
    }

    #[test]
    fn pikas_options_are_read() {
        let target = parse(
            "amqp://h/?heartbeat=7&blocked_connection_timeout=300&connection_attempts=9&retry_delay=0.5\
             &socket_timeout=4&channel_max=64&frame_max=131072&locale=en_US",
        );

        assert_eq!(target.heartbeat, 7);
        assert_eq!(target.blocked_timeout, Some(Duration::from_secs(300)));
        assert_eq!(target.attempts, 9);
        assert_eq!(target.retry_delay, Duration::from_millis(500));
        assert_eq!(target.deadline, Duration::from_secs(4));
        assert_eq!(target.channel_max, Some(64));
    }

    #[test]
    fn certificate_and_key_go_together() {
        let folder = std::env::temp_dir().join(format!("leveret-url-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, label: &str| {
            let path = folder.join(name);
            std::fs::write(&path, format!("-----BEGIN {label}-----\n-----END {label}-----\n")).unwrap();
            path.display().to_string()
        };
        let (certificate, key) = (file("cert.pem", "CERTIFICATE"), file("key.pem", "RSA PRIVATE KEY"));

        let alone = refusal(&format!("amqps://h/?certfile={certificate}"));
        let swapped = refusal(&format!("amqps://h/?certfile={key}&keyfile={certificate}"));
        let both = parse(&format!("amqps://h/?certfile={certificate}&keyfile={key}"));

        std::fs::remove_dir_all(&folder).unwrap();
        assert!(alone.contains("go together"), "{alone}");
        assert!(swapped.contains("holds no certificate"), "{swapped}");
        assert!(both.tls.is_some_and(|tls| tls.identity.is_some()));
    }

    #[test]
    fn password_that_is_not_encoded_is_neither_told_nor_taken_for_a_host() {
        for url in [
            "amqp://guest:se/cret@rabbit:5672/",
            "amqp://guest:12/cret@rabbit",
            "amqp://guest:se?cret@rabbit:5672/",
            "amqp://guest:12?cret=@rabbit",
            "amqp://guest:se#c/ret@rabbit:5672/vhost",
        ] {
            let words = refusal(url);

            assert!(words.contains("is the password percent-encoded?") && words.contains("`%2F`"), "{words}");
            for secret in ["se", "12", "cret"] {
                assert!(!words.contains(&format!("`{secret}")), "{words}");
            }
        }
        assert_eq!(parse("amqp://guest:se%2Fcret@rabbit").password, "se/cret");
        assert_eq!(parse("amqp://guest:se#cret@rabbit").password, "se#cret");
        assert_eq!(parse("amqp://guest:guest@rabbit/a@b").vhost, "a@b");
    }

    #[test]
    fn mistakes_name_the_option_and_the_remedy_but_never_the_password() {
        assert!(refusal("amqp://h/?heartbeet=7").contains("`heartbeet` is unknown; known are heartbeat"));
        assert!(refusal("amqp://h/?heartbeat=soon").contains("`heartbeat=soon`"));
        assert!(refusal("amqp://h/?socket_timeout=-1").contains("seconds"));
        assert!(
            refusal("amqp://h/?connection_timeout=0")
                .contains("`connection_timeout=0` cannot be used: give more than 0 milliseconds")
        );
        assert!(refusal("amqps://h/?ssl_options={}").contains("cacertfile"));
        assert!(refusal("amqp://h/?cacertfile=/etc/ca.pem").contains("amqps://"));
        assert!(refusal("amqps://h/?verify=verify_none").contains("cacertfile"));
        assert!(
            refusal("amqps://h/?cacertfile=Cargo.toml")
                .contains("`cacertfile=Cargo.toml` holds no certificate")
        );
        // Which rustls passes over without a word.
        let trusted = std::env::temp_dir().join(format!("leveret-trusted-{}.pem", std::process::id()));
        std::fs::write(&trusted, "-----BEGIN TRUSTED CERTIFICATE-----\n-----END TRUSTED CERTIFICATE-----\n")
            .unwrap();
        let words = refusal(&format!("amqps://h/?cacertfile={}", trusted.display()));
        std::fs::remove_file(&trusted).unwrap();
        assert!(words.contains("holds no certificate"), "{words}");
        assert!(refusal("amqps://h/?cacertfile=no-such-file").contains("cannot be read"));
        assert!(!refusal("amqp://u:secret@h:port/").contains("secret"));
        assert!(!format!("{:?}", parse("amqp://u:secret@h/")).contains("secret"));
    }
}
