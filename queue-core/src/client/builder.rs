//! What a client may be told before it connects, and which broker its URL names.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::presence::Listed;
use super::{Client, Inner, environment};
use crate::broker::{Broker, ManagementUrl, Settings};
use crate::call::replies::Replies;
use crate::clock::Clock;
use crate::declaring::Declaring;
use crate::error::{Error, Result};
use crate::seal::MAX_PAYLOAD;
use crate::topology::Namespace;

/// The longest that a publish waits.
const MAX_PUBLISH_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sets what [`Client::connect`] leaves at its default.
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    settings: Settings,
    max_payload: usize,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self { settings: Settings::default(), max_payload: MAX_PAYLOAD }
    }
}

impl ClientBuilder {
    /// The prefix of Leveret's own queues and exchanges: one per application where several share a vhost.
    /// Default `leveret`.
    ///
    /// # Errors
    /// If it cannot be part of an AMQP name.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        self.settings.namespace = Namespace::new(namespace)?;
        Ok(self)
    }

    /// How long an enqueue waits for a broker that is away, blocked or silent, and a declaration for one that is away.
    /// An SQLite file that another program has locked is away, and one whose disk is full is blocked.
    /// Default 30 s, at most 30 days: more is taken as that.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        // A moment that far off can be computed on every platform, and `Duration::MAX` from now cannot.
        self.settings.publish_timeout = timeout.min(MAX_PUBLISH_TIMEOUT);
        self
    }

    /// Has [`connect`](Self::connect) wait for a broker that is away, as long as that takes, instead of giving up
    /// after a few attempts: a worker may start before its broker. A broker that refuses us is an error at once all
    /// the same.
    pub fn wait_for_broker(mut self) -> Self {
        self.settings.wait_for_broker = true;
        self
    }

    /// Where RabbitMQ's management API is, `http://user:password@host:15672`, for what AMQP cannot do: it lists no
    /// bindings, and so `bindings = "exact"` needs this. Without a login, that of the broker's URL is used; the user
    /// needs the tag `management`. Takes the feature `management`. Other brokers have no use for it.
    pub fn management(mut self, url: impl Into<String>) -> Self {
        self.settings.management = Some(ManagementUrl::new(url));
        self
    }

    /// The connection's name in the broker's own lists. Default: the program's name and process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// The largest payload in bytes. Default 16 MiB, which is what RabbitMQ takes.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// The time, for tests. Only `memory:` takes a clock that can be moved.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Connects to the broker that `url` names.
    ///
    /// # Errors
    /// If the URL makes no sense, its broker is not compiled in, or it refuses us. A broker that is away is tried
    /// again as often as the URL says (`connection_attempts`, `retry_delay`), then it is an error, unless the client
    /// [waits for it](Self::wait_for_broker).
    pub async fn connect(self, url: &str) -> Result<Client> {
        let broker = open(url, &self.settings).await?;
        Ok(self.with_broker(broker))
    }

    /// Connects to the broker that the environment names; see [`Client::from_env`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect); also if neither variable is set, or the one that counts is empty or not UTF-8.
    pub async fn from_env(mut self) -> Result<Client> {
        if let Some(url) = environment::management_url()? {
            self = self.management(url);
        }
        let (variable, url) = environment::broker_url()?;
        let client = self.connect(&url).await;
        client.map_err(|error| error.reword(|words| format!("{variable}: {words}")))
    }

    /// A client on a broker that is already open, for one of your own making.
    pub fn with_broker(self, broker: Arc<dyn Broker>) -> Client {
        Client {
            inner: Arc::new(Inner {
                listed: Listed::begin(&*broker, &self.settings),
                broker,
                settings: self.settings,
                max_payload: self.max_payload,
                declared: RwLock::default(),
                declaring: Declaring::default(),
                replies: Replies::default(),
            }),
        }
    }
}

/// Opens the broker that `url` names.
#[cfg_attr(
    not(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system")),
    expect(unused_variables, reason = "without a broker nothing is opened")
)]
async fn open(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        #[cfg(feature = "memory")]
        Some("memory") => crate::broker::memory::open(url, settings),
        #[cfg(feature = "rabbitmq")]
        Some("amqp" | "amqps") => {
            refuse_manual_clock(settings)?;
            let broker = crate::broker::rabbitmq::connect(url, settings).await;
            broker.map_err(|error| match error.kind() {
                // Here and not where the words are made: who has been connected waits anyway.
                crate::error::ErrorKind::Connection => error.reword(|words| {
                    format!("{words}; `Client::builder().wait_for_broker()` waits until it is there")
                }),
                _ => error,
            })
        }
        #[cfg(feature = "sqlite-system")]
        Some("sqlite") => {
            refuse_manual_clock(settings)?;
            crate::broker::sqlite::open(url, settings).await
        }
        #[allow(unreachable_patterns, reason = "reachable for those brokers whose feature is off")]
        Some(known @ ("memory" | "amqp" | "amqps" | "sqlite")) => {
            let feature = if known.starts_with("amqp") { "rabbitmq" } else { known };
            Err(Error::config(format!(
                "this program was built without the `{known}:` broker: enable the feature `{feature}` of `leveret`"
            )))
        }
        scheme => Err(unknown_scheme(url, scheme)),
    }
}

/// A URL that names no broker. It may hold a password, so no more of it is repeated than what stands before the colon,
/// and that only where it looks like a scheme.
fn unknown_scheme(url: &str, scheme: Option<&str>) -> Error {
    if url.starts_with(char::is_whitespace) {
        return Error::config("the broker's URL begins with a blank: remove it");
    }
    let is_scheme = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let Some(scheme) = scheme.filter(is_scheme) else {
        return Error::config(format!("the broker's URL begins with none of {FORMS}"));
    };
    let meant = SCHEMES.iter().find(|(_, known)| known.iter().any(|known| is_near(scheme, known)));
    Error::config(match meant {
        Some((meant, _)) => format!("the broker's URL begins with `{scheme}:`: did you mean `{meant}`?"),
        None => format!("the broker's URL begins with `{scheme}:`, and with none of {FORMS}"),
    })
}

/// How URLs begin, and an example of each.
const FORMS: &str = "`memory:`, `sqlite:`, `amqp://` and `amqps://`: write `amqp://guest:guest@localhost:5672/`, \
                     `sqlite:jobs.db` or `memory:`";

/// How a URL begins, and what people write for it.
const SCHEMES: [(&str, &[&str]); 4] = [
    ("amqp://", &["amqp", "rabbit", "rabbitmq"]),
    ("amqps://", &["amqps", "rabbitmqs"]),
    ("sqlite:", &["sqlite", "sqlite3"]),
    ("memory:", &["memory", "mem", "inmemory"]),
];

/// Whether one letter was added, dropped or replaced, or two neighbours swapped.
pub(super) fn is_near(word: &str, known: &str) -> bool {
    let (word, known) = (word.as_bytes(), known.as_bytes());
    let same = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(a, b)| a == b).count();
    let shorter = word.len().min(known.len());
    let head = same(&mut word.iter().zip(known));
    let tail = same(&mut word.iter().rev().zip(known.iter().rev())).min(shorter - head);
    match (&word[head..word.len() - tail], &known[head..known.len() - tail]) {
        ([] | [_], [] | [_]) => true,
        ([a, b], [c, d]) => (a, b) == (d, c),
        _ => false,
    }
}

#[cfg(any(feature = "rabbitmq", feature = "sqlite-system"))]
fn refuse_manual_clock(settings: &Settings) -> Result<()> {
    if settings.clock.is_manual() {
        return Err(Error::config("only `memory:` takes a clock that can be moved; leave `clock` out"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        unknown_scheme(url, scheme.as_deref()).to_string()
    }

    #[test]
    fn near_scheme_is_suggested() {
        for (url, meant) in [
            ("ampq://guest:guest@h/", "`ampq:`: did you mean `amqp://`?"),
            ("AMQ://h/", "`amq:`: did you mean `amqp://`?"),
            ("ampqs://h/", "`ampqs:`: did you mean `amqps://`?"),
            ("rabbitmq://h/", "`rabbitmq:`: did you mean `amqp://`?"),
            ("sqlite3:jobs.db", "`sqlite3:`: did you mean `sqlite:`?"),
            ("mem:", "`mem:`: did you mean `memory:`?"),
        ] {
            assert_eq!(refusal(url), format!("the broker's URL begins with {meant}"));
        }
    }

    #[test]
    fn far_scheme_is_told_what_there_is() {
        let words = "none of `memory:`, `sqlite:`, `amqp://` and `amqps://`: write `amqp://guest:guest@localhost:5672/`, \
                     `sqlite:jobs.db` or `memory:`";

        assert_eq!(
            refusal("localhost:5672"),
            format!("the broker's URL begins with `localhost:`, and with {words}")
        );
        assert_eq!(refusal("jobs.db"), format!("the broker's URL begins with {words}"));
        assert_eq!(refusal(" amqp://h/"), "the broker's URL begins with a blank: remove it");
    }

    #[test]
    fn what_may_be_a_password_is_not_told() {
        for url in ["se/cret@h:5672", "guest-se_cret@h:5672/", "\"amqp://guest:secret@h/\"", "secret"] {
            assert!(!refusal(url).contains("cret"), "{}", refusal(url));
        }
    }

    #[test]
    fn one_slip_is_near_and_two_are_not() {
        for near in ["amqp", "amq", "mqp", "amqqp", "ampq", "amqb", "maqp"] {
            assert!(is_near(near, "amqp"), "{near}");
        }
        for far in ["am", "http", "pqma", "kafka", ""] {
            assert!(!is_near(far, "amqp"), "{far}");
        }
    }
}
