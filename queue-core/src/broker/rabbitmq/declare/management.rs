//! RabbitMQ's management API, for what AMQP cannot do: list queues, and a queue's bindings.
//! <https://www.rabbitmq.com/docs/http-api-reference>

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use ureq::http::StatusCode;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, http};
use url::Url;

use crate::broker::rabbitmq::connection::url::Target;
use crate::envelope::{HeaderValue, Headers};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::topology::Topology;

/// How long one request may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest list of queues that is read, in bytes: some hundred thousand names.
const LIST_LIMIT: u64 = 64 * 1024 * 1024;

/// The management API of our vhost.
#[derive(Clone)]
pub(super) struct Management {
    agent: Agent,
    /// Without the login, and without a slash at its end.
    base: String,
    user: String,
    authorization: String,
    vhost: String,
}

/// A binding as it is listed.
#[derive(Debug, Deserialize)]
struct Listed {
    source: String,
    routing_key: String,
    arguments: serde_json::Map<String, Value>,
    /// Names it among those of its exchange and queue.
    properties_key: String,
}

/// A queue as it is listed.
#[derive(Debug, Deserialize)]
struct ListedQueue {
    name: String,
    #[serde(default)]
    exclusive: bool,
}

/// The subject of a request, for the words of its error.
#[derive(Clone, Copy)]
enum About<'a> {
    /// The bindings of this queue, which was just declared.
    Bindings(&'a str),
    /// The list of queues.
    Queues,
    /// The policy of this queue, which is consumed.
    Policy(&'a str),
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bindings(queue) => write!(f, "queue `{queue}`"),
            Self::Queues => f.write_str("the list of queues"),
            Self::Policy(queue) => write!(f, "the policy of queue `{queue}`"),
        }
    }
}

impl fmt::Debug for Management {
    /// Without the login: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management").field("base", &self.base).field("vhost", &self.vhost).finish()
    }
}

impl Management {
    /// Reads `http://user:password@host:15672`. Without a login it is that of `target`, whose authority is trusted, too.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// If the URL makes no sense. They never repeat the password.
    pub(super) fn new(url: &str, target: &Target) -> Result<Self> {
        let bad = |why: String| {
            Error::config(format!(
                "the URL of RabbitMQ's management API {why}: write `http://user:password@host:15672`"
            ))
        };
        let mut url = Url::parse(url).map_err(|error| bad(format!("cannot be read ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(format!("begins with `{}:`", url.scheme())));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has a query".to_owned()));
        }
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let (user, password) = match url.username() {
            "" => (target.user.clone(), target.password.clone()),
            user => (decode(user), decode(url.password().unwrap_or_default())),
        };
        // Neither fails for a URL that has a host, which http always has.
        let _ = (url.set_username(""), url.set_password(None));
        let mut config = Agent::config_builder().timeout_global(Some(ANSWER)).http_status_as_error(false);
        if url.scheme() == "https" {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
            config = config.tls_config(tls.root_certs(RootCerts::new_with_certs(&roots(target)?)).build());
        }
        Ok(Self {
            agent: config.max_redirects(0).build().into(),
            base: url.as_str().trim_end_matches('/').to_owned(),
            authorization: format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            user,
            vhost: target.vhost.clone(),
        })
    }

    /// The names of the vhost's queues in alphabetical order, without exclusive ones. Blocks.
    ///
    /// # Errors
    /// If the API does not answer, or refuses us.
    pub(super) fn queues(&self) -> Result<Vec<String>> {
        let path = format!("/api/queues/{}?columns=name,exclusive", segment(&self.vhost));
        let request =
            self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.authorization);
        let mut answer = self.checked(request.call(), About::Queues)?;
        let listed = answer.body_mut().with_config().limit(LIST_LIMIT).read_json();
        let listed: Vec<ListedQueue> = listed.map_err(|error| self.other_server(error))?;
        let shared = listed.into_iter().filter(|queue| !queue.exclusive);
        let mut names: Vec<_> = shared.map(|queue| queue.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// After how many lost holders RabbitMQ drops a message of `queue` by a policy, if one says so. `None` for some seconds after
    /// a queue was declared. Blocks.
    ///
    /// # Errors
    /// If the API does not answer, or refuses us.
    pub(super) fn delivery_limit(&self, queue: &str) -> Result<Option<Option<u64>>> {
        let path = format!(
            "/api/queues/{}/{}?columns=effective_policy_definition",
            segment(&self.vhost),
            segment(queue)
        );
        let request =
            self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.authorization);
        let mut answer = self.checked(request.call(), About::Policy(queue))?;
        let found: Value = answer.body_mut().read_json().map_err(|error| self.other_server(error))?;
        Ok(found.get("effective_policy_definition").map(|policy| policy["delivery-limit"].as_u64()))
    }

    fn other_server(&self, error: ureq::Error) -> Error {
        Error::config(format!("{} does not answer as RabbitMQ's management API does", self.base))
            .with_source(error)
    }

    /// Takes out the bindings of `queue` that `topology` does not make. Where the list leaves open whether it does, the
    /// binding stays. Blocks.
    ///
    /// # Errors
    /// If the API does not answer, or refuses us. Some bindings may be gone by then.
    pub(super) fn keep_only(&self, queue: &str, topology: &Topology) -> Result<()> {
        let (vhost, name) = (segment(&self.vhost), segment(queue));
        let path = format!("/api/queues/{vhost}/{name}/bindings");
        let request =
            self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.authorization);
        let mut answer = self.checked(request.call(), About::Bindings(queue))?;
        let listed: Vec<Listed> = answer.body_mut().read_json().map_err(|error| self.other_server(error))?;
        // Every queue is bound to the default exchange, for good.
        for binding in listed.iter().filter(|binding| !binding.source.is_empty()) {
            if binding.is_made_by(topology, queue) {
                continue;
            }
            tracing::info!(
                %queue, exchange = %binding.source, routing_key = %binding.routing_key,
                "taking out a binding that the code does not have"
            );
            let (exchange, key) = (segment(&binding.source), segment(&binding.properties_key));
            let path = format!("/api/bindings/{vhost}/e/{exchange}/q/{name}/{key}");
            let request = self
                .agent
                .delete(format!("{}{path}", self.base))
                .header("Authorization", &self.authorization);
            let answer = request.call();
            // Another program has removed it.
            if !matches!(&answer, Ok(answer) if answer.status() == StatusCode::NOT_FOUND) {
                self.checked(answer, About::Bindings(queue))?;
            }
        }
        Ok(())
    }

    fn checked(
        &self,
        answer: Result<http::Response<Body>, ureq::Error>,
        about: About<'_>,
    ) -> Result<http::Response<Body>> {
        let Self { base, user, vhost, .. } = self;
        let answer = answer.map_err(|error| {
            let why = match about {
                About::Bindings(queue) => format!(", and queue `{queue}` asks for exact bindings"),
                About::Queues | About::Policy(_) => String::new(),
            };
            Error::new(
                ErrorKind::Connection,
                format!(
                    "RabbitMQ's management API at {base} cannot be reached{why}: enable it on the server (`rabbitmq-plugins \
                     enable rabbitmq_management`) and see that the URL is right"
                ),
            )
            .with_source(error)
        })?;
        let status = answer.status();
        match status {
            _ if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "RabbitMQ's management API at {base} refuses user `{user}` ({status}): it takes the right password, \
                     the tag `management` (`rabbitmqctl set_user_tags {user} management`), and permissions on vhost \
                     `{vhost}`"
                ),
            )),
            _ if status.is_server_error() => {
                Err(Error::new(ErrorKind::Connection, format!("RabbitMQ's management API at {base} failed"))
                    .with_source(BoxError::from(format!("{status} to a request about {about}"))))
            }
            _ => {
                let known = match about {
                    About::Bindings(_) => ", which was just declared",
                    About::Queues | About::Policy(_) => "",
                };
                Err(Error::config(format!(
                    "{base} answers `{status}` about {about} in vhost `{vhost}`{known}: it is no management API, or that of \
                     another server"
                )))
            }
        }
    }
}

impl Listed {
    fn is_made_by(&self, topology: &Topology, queue: &str) -> bool {
        topology.bindings.iter().any(|made| {
            made.queue == queue
                && made.exchange == self.source
                && made.routing_key == self.routing_key
                && has_arguments(&self.arguments, &made.arguments)
        })
    }
}

fn has_arguments(listed: &serde_json::Map<String, Value>, made: &Headers) -> bool {
    listed.len() == made.len()
        && made.iter().all(|(name, made)| listed.get(name).is_some_and(|listed| may_be(listed, made)))
}

/// True if what is listed may be this argument: JSON does not tell all of AMQP's types apart.
fn may_be(listed: &Value, made: &HeaderValue) -> bool {
    match made {
        HeaderValue::Null => listed.is_null(),
        HeaderValue::Bool(made) => listed.as_bool() == Some(*made),
        HeaderValue::Int(made) => listed.as_i64() == Some(*made),
        HeaderValue::String(made) => listed.as_str() == Some(made),
        // Written as text of some digits.
        HeaderValue::Float(_) | HeaderValue::Timestamp(_) => listed.is_number(),
        HeaderValue::Bytes(_) => listed.is_string(),
        HeaderValue::List(_) => listed.is_array(),
        HeaderValue::Table(_) => listed.is_object(),
    }
}

fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// The trusted authorities: as for `amqps://`, those of the system and the one that the broker's URL names.
fn roots(target: &Target) -> Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate of the system cannot be read");
    }
    let mut roots: Vec<_> = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    if let Some(pem) = target.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
        for item in parse_pem(pem.as_bytes()) {
            if let PemItem::Certificate(certificate) =
                item.map_err(|error| Error::config("the URL's `cacertfile` is no PEM").with_source(error))?
            {
                roots.push(certificate);
            }
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::parse("amqp://ada:pass%3Aword@localhost/shop").unwrap()
    }

    #[test]
    fn login_of_the_broker_is_used_where_the_url_has_none() {
        let without = Management::new("http://localhost:15672/", &target()).unwrap();
        let with = Management::new("http://bob:p%40ss@localhost:15672/rabbit/", &target()).unwrap();

        assert_eq!(without.base, "http://localhost:15672");
        assert_eq!(without.authorization, format!("Basic {}", STANDARD.encode("ada:pass:word")));
        assert_eq!(with.base, "http://localhost:15672/rabbit");
        assert_eq!(with.authorization, format!("Basic {}", STANDARD.encode("bob:p@ss")));
        assert!(!format!("{with:?}").contains("p@ss"));
    }

    #[test]
    fn url_that_makes_no_sense_says_what_to_write_and_not_the_password() {
        for url in
            ["localhost:15672", "amqp://a:secret@localhost", "http://", "http://a:secret@h:15672?x=1", ""]
        {
            let error = Management::new(url, &target()).unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            let words = error.to_string();
            assert!(words.contains("http://user:password@host:15672"), "{words}");
            assert!(!words.contains("secret"), "{words}");
        }
    }

    #[test]
    fn arguments_are_the_same_in_doubt() {
        let listed = serde_json::json!({"x-match": "all", "number": 5, "when": 7, "ratio": 0.1});
        let listed = listed.as_object().unwrap();
        let mut made = Headers::new();
        made.insert("x-match", "all");
        made.insert("number", 5_i64);
        made.insert("when", HeaderValue::Timestamp(8));
        assert!(!has_arguments(listed, &made));

        made.insert("ratio", HeaderValue::Float(0.2));
        assert!(has_arguments(listed, &made));

        made.insert("number", 6_i64);
        assert!(!has_arguments(listed, &made));
    }
}
