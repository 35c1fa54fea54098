//! The options of a client before it connects, and the choice of the broker that its URL names.

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

/// Sets what [`Client::connect`] leaves at its default. Made by [`Client::builder`].
///
/// ```
/// use std::time::Duration;
///
/// use leveret::Client;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// let client = Client::builder()
///     .name("shop-web")
///     .namespace("shop")?
///     .publish_timeout(Duration::from_secs(5))
///     .max_payload(1024 * 1024)
///     .wait_for_broker()
///     .connect("memory:")
///     .await?;
/// # Ok(()) }
/// ```
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
    /// Sets the prefix of Leveret's own queues and exchanges; default `leveret`. Applications that share a vhost take one each.
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// // The delay queues are `shop.delay.00` … `shop.delay.20`.
    /// let client = Client::builder().namespace("shop")?.connect("memory:").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If it cannot be part of an AMQP name.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Result<Self> {
        self.settings.namespace = Namespace::new(namespace)?;
        Ok(self)
    }

    /// Sets how long an enqueue waits for a broker that is away, blocked or silent, and a declaration for a broker that is
    /// away. Default 30 s, at most 30 days; a longer time counts as 30 days. An SQLite file that another program has locked is
    /// away; one whose disk is full is blocked.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// // A web request rather fails after 2 s than waits.
    /// let client = Client::builder().publish_timeout(Duration::from_secs(2)).connect("memory:").await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        // A moment that far off can be computed on every platform, and `Duration::MAX` from now cannot.
        self.settings.publish_timeout = timeout.min(MAX_PUBLISH_TIMEOUT);
        self
    }

    /// Makes [`connect`](Self::connect) wait for a broker that is away, for as long as that takes, instead of giving up
    /// after a few attempts: so a worker may start before its broker. A broker that refuses the login is an error at once all
    /// the same.
    ///
    /// ```no_run
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let client = Client::builder().wait_for_broker().connect("amqp://guest:guest@rabbitmq:5672/").await?;
    /// # Ok(()) }
    /// ```
    pub fn wait_for_broker(mut self) -> Self {
        self.settings.wait_for_broker = true;
        self
    }

    /// Sets the URL of RabbitMQ's management API, `http://user:password@host:15672`. `bindings = "exact"` needs it, since AMQP
    /// cannot list bindings. Without a login in it, that of the broker's URL is used; the user needs the tag `management`.
    /// Needs the feature `management`. Other brokers ignore it.
    ///
    /// ```no_run
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let builder = Client::builder().management("http://localhost:15672");
    /// let client = builder.connect("amqp://guest:guest@localhost:5672/").await?;
    /// # Ok(()) }
    /// ```
    pub fn management(mut self, url: impl Into<String>) -> Self {
        self.settings.management = Some(ManagementUrl::new(url));
        self
    }

    /// Sets the connection's name, which the broker shows in its lists. Default: the program's name and process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Sets the largest payload in bytes. Default 16 MiB, RabbitMQ's own limit. A larger one is
    /// [`PublishError::TooLarge`](crate::error::PublishError::TooLarge).
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets the clock, for tests. Only `memory:` takes a clock that can be moved.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use leveret::Client;
    /// use leveret::broker::Clock;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leveret::Result<()> {
    /// let clock = Clock::manual(SystemTime::now());
    /// let client = Client::builder().clock(clock.clone()).connect("memory:").await?;
    /// // Jobs that were delayed by an hour are due now.
    /// clock.advance(Duration::from_secs(3600));
    /// # Ok(()) }
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Connects to the broker that `url` names.
    ///
    /// # Errors
    /// If the URL makes no sense, its broker is not compiled in, or the broker refuses the login. A broker that is away is
    /// tried again as often as the URL says (`connection_attempts`, `retry_delay`); then it is an error, unless the client
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

    /// Makes a client of a broker that is already open: one of your own making.
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
                // Said here and not where the error is made: a client that was connected waits anyway.
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

/// The error of a URL that names no broker. The URL may hold a password, so the error repeats only the part before the
/// colon, and that only where it looks like a scheme.
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

/// True if the words differ by one letter added, dropped or replaced, or by two neighbours swapped.
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
