//! The errors before a job runs: at start ([`Error`]) and at enqueueing ([`EnqueueError`]).
//!
//! The errors of a *handler* are an [`Outcome`](crate::outcome::Outcome), in `outcome`.

use std::fmt;
use std::time::Duration;

use crate::broker::DIRECT_REPLY_TO;

/// Any error a handler or a library may produce.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// `Result` with Leveret's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`]; see [`Error::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A URL, option or registration cannot work; fix the program or its environment.
    Config,
    /// The broker could not be reached, or the connection to it was lost.
    Connection,
    /// The broker refused the credentials, the vhost or the permission.
    Refused,
    /// A queue, exchange or binding that a declaration or a consumer needs is missing, or exists with other settings.
    Topology,
    /// The queue that an operator asked about does not exist.
    NotFound,
    /// A job was not enqueued, or an event not published. The source is the [`EnqueueError`], the [`EventError`] or the
    /// [`PublishError`], or for a batch the [`EnqueueAllError`](crate::client::EnqueueAllError).
    Enqueue,
    /// A call has no result. The source is the [`CallError`](crate::call::CallError).
    Call,
    /// The client or broker has been closed.
    Closed,
    /// The broker does not have this operation: RabbitMQ keeps no list of workers, for example.
    Unsupported,
    /// The worker failed in a way that is not a job's own failure.
    Worker,
}

/// An error at start-up or in administration. Its message names the thing, the value and the remedy.
///
/// ```
/// use leveret::{Client, ErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Client::connect("rabbit://localhost").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert_eq!(error.to_string(), "the broker's URL begins with `rabbit:`: did you mean `amqp://`?");
/// # }
/// ```
///
/// A `main` that returns the error prints its `Debug`, which is therefore for people: the message and its causes on one line.
/// `{:#?}` shows its parts.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<BoxError>,
}

impl Error {
    /// An error of `kind`. The message names the thing, the value and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause. Printing the chain shows it, so the message must not repeat it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind of the error, to match on.
    ///
    /// ```no_run
    /// use leveret::{Client, ErrorKind};
    ///
    /// # async fn f() -> leveret::Result<()> {
    /// match Client::from_env().await {
    ///     Err(error) if error.kind() == ErrorKind::Connection => println!("the broker is away: {error}"),
    ///     client => drop(client?),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Rewords the message: `reword(|words| format!("LEVERET_URL: {words}"))`.
    pub(crate) fn reword(mut self, reword: impl FnOnce(String) -> String) -> Self {
        self.message = reword(self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return f.write_str(&chain(self));
        }
        let Self { kind, message, source } = self;
        f.debug_struct("Error").field("kind", kind).field("message", message).field("source", source).finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The reason why a broker did not take a message. It names exchange and routing key, since a broker knows no tasks.
///
/// ```
/// use leveret::{Client, Properties, PublishError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// match client.publish_raw("", "no.such.queue", "{}", Properties::new()).await {
///     Err(PublishError::Unroutable { routing_key, .. }) => println!("there is no queue `{routing_key}`"),
///     // The message may be there: send it again under the same id.
///     Err(PublishError::Unconfirmed { .. }) => println!("not confirmed"),
///     other => println!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The exchange routed the message to no queue. Nothing was kept.
    #[error("nothing is bound to exchange `{exchange}` for routing key `{routing_key}`")]
    Unroutable {
        /// The exchange, empty for the default exchange.
        exchange: String,
        /// The routing key; on the default exchange the name of the missing queue.
        routing_key: String,
    },
    /// A queue is at its limit (`overflow = "reject"`), or RabbitMQ nacked for another reason, which it does not tell: for
    /// example, the queue was being deleted. That queue kept nothing. If the message went to an exchange, other queues on
    /// RabbitMQ may have kept it, which RabbitMQ does not tell; on `memory:` and `sqlite:` no queue keeps it.
    #[error(
        "the broker refused the message for `{routing_key}`: a queue that it goes to is full (`max_length`, or a policy's \
         limit), or is being deleted or moved: try again"
    )]
    QueueFull {
        /// The routing key; on the default exchange the name of the full queue.
        routing_key: String,
    },
    /// The message was sent, but no confirm arrived; or it was a request, which has no confirm, and its channel was lost. **The
    /// message may exist**: publish it again under the same job id, and let the handler deduplicate.
    #[error("the message was not confirmed within {waited:?}: it may or may not have been kept")]
    Unconfirmed {
        /// How long the publisher waited.
        waited: Duration,
    },
    /// The broker was away for the whole publish timeout. Nothing was sent.
    #[error("the broker has been away for {waited:?}; nothing was sent")]
    Unavailable {
        /// How long the publisher waited.
        waited: Duration,
        /// The error of the last attempt to reach it.
        source: Option<BoxError>,
    },
    /// The broker is connected, but has not answered for the whole publish timeout, and this message waited behind others that
    /// were sent. It was not sent.
    #[error("the broker is connected, but has answered nothing for {waited:?}; nothing was sent")]
    Silent {
        /// How long the publisher waited.
        waited: Duration,
    },
    /// The broker has blocked publishers (memory or disk alarm) for the whole publish timeout.
    #[error("the broker has been blocking publishers for {waited:?} ({reason}); nothing was kept")]
    Blocked {
        /// How long the publisher waited.
        waited: Duration,
        /// The broker's words, such as `low on memory`.
        reason: String,
    },
    /// The body is larger than the limit.
    #[error(
        "the payload has {size} bytes, over the limit of {limit}; store it elsewhere and enqueue its address"
    )]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// The limit in bytes, see [`ClientBuilder::max_payload`](crate::client::ClientBuilder::max_payload).
        limit: usize,
    },
    /// A request without a consumer for its reply, or whose consumer has ended with its connection. Nothing was sent.
    #[error(
        "the reply to the request has no consumer: consume `{DIRECT_REPLY_TO}` on the same broker first, and again when \
         that consumer has ended; nothing was sent"
    )]
    NoReader,
    /// A name or header that AMQP cannot carry.
    #[error("{0}")]
    Invalid(String),
    /// The broker refused the message: the user lacks a permission, or a queue that it needs exists with other settings. Nothing
    /// was kept; publish it again once that is fixed.
    #[error("{0}")]
    Refused(String),
    /// The client has been closed.
    #[error("the client is closed")]
    Closed,
}

/// The reason why a job was not enqueued.
///
/// ```
/// use leveret::{Client, EnqueueError, task};
///
/// #[task(queue = "thumbnails", max_length = 1)]
/// async fn resize(image: u64) {
///     println!("{image}");
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// client.enqueue(Resize { image: 7 }).await?;
/// match client.enqueue(Resize { image: 8 }).await {
///     Err(EnqueueError::QueueFull { queue }) => println!("queue `{queue}` is full, try later"),
///     enqueued => drop(enqueued?),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The payload could not be written in the task's format.
    #[error("the payload of task `{task}` could not be encoded")]
    Encode {
        /// The task's name on the wire.
        task: &'static str,
        /// serde's error.
        source: BoxError,
    },
    /// The task's queue could not be declared, or exists with other settings.
    #[error("queue `{queue}` could not be declared")]
    Declare {
        /// The queue's name.
        queue: String,
        /// The broker's error.
        source: Error,
    },
    /// The queue is at its declared limit, or at that of a policy. The job was not kept; try later, or raise the limit.
    #[error("queue `{queue}` is full: try later, or raise its `max_length`")]
    QueueFull {
        /// The queue's name.
        queue: String,
    },
    /// The broker did not take the job; the variants of [`PublishError`] say whether it may exist.
    #[error(transparent)]
    Publish(PublishError),
}

/// The reason why an event was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event could not be written in its format.
    #[error("event `{event}` could not be encoded")]
    Encode {
        /// The event's name on the wire.
        event: &'static str,
        /// serde's error.
        source: BoxError,
    },
    /// The event's exchange could not be declared, or exists as another kind.
    #[error("exchange `{exchange}` could not be declared")]
    Declare {
        /// The exchange's name.
        exchange: String,
        /// The broker's error.
        source: Error,
    },
    /// The broker did not take the event; the variants of [`PublishError`] say whether it may exist.
    #[error(transparent)]
    Publish(PublishError),
}

/// Lets `?` convert it. The original error is the `source()`.
impl From<EventError> for Error {
    fn from(error: EventError) -> Self {
        Self::new(ErrorKind::Enqueue, "the event was not published").with_source(error)
    }
}

/// Lets `?` convert it. The original error is the `source()`.
impl From<EnqueueError> for Error {
    fn from(error: EnqueueError) -> Self {
        Self::new(ErrorKind::Enqueue, "the job was not enqueued").with_source(error)
    }
}

/// Lets `?` convert it. The original error is the `source()`.
impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        Self::new(ErrorKind::Enqueue, "the message was not published").with_source(error)
    }
}

/// The reason why a settlement did not reach the broker. The job is not lost: the broker delivers it again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The connection that brought the delivery was lost, or its lease was taken over.
    #[error("the delivery is no longer ours, and the broker will deliver the job again")]
    Lost,
    /// The copy for a retry or a dead letter was not confirmed, so the original was returned to its queue.
    #[error("the copy of the job was not confirmed, so the original was returned to its queue")]
    Republish(#[source] PublishError),
    /// The copy for a retry or a dead letter is confirmed, but the original could not be acked: its connection was lost.
    #[error(
        "the copy of the job is confirmed, but the broker did not take its original back and will deliver it again"
    )]
    Unacked,
}

/// How many errors of a chain are read. Longer than any real chain; a chain may be a ring by mistake.
const MAX_CAUSES: usize = 64;
/// After how many bytes no more causes are written.
const MAX_CHAIN: usize = 16 * 1024;

/// An error and its causes, from the outermost inwards: at most [`MAX_CAUSES`], since `source()` is code of others.
pub(crate) fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source()).take(MAX_CAUSES)
}

/// Writes an error with its chain of causes on one line: `a: b: c`. A cause that repeats the words before it (a wrapper
/// that forwards its source's words) is left out. Of a chain without end, the first 64 causes are written, and `…`.
///
/// ```
/// use leveret::{Client, Properties, error_chain};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// if let Err(error) = client.publish_raw("", "no.such.queue", "{}", Properties::new()).await {
///     eprintln!("not published: {}", error_chain(&error));
/// }
/// # Ok(()) }
/// ```
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for (number, error) in causes(error).enumerate() {
        let words = error.to_string();
        if number == 0 {
            text.push_str(&words);
        } else if !last.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        if text.len() > MAX_CHAIN || number + 1 == MAX_CAUSES {
            if error.source().is_some() {
                text.push_str(": …");
            }
            break;
        }
        last = words;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_says_each_cause_once() {
        let io = std::io::Error::other("disk on fire");
        let error =
            Error::config("cannot open `jobs.db`").with_source(Error::config("disk on fire").with_source(io));

        assert_eq!(chain(&error), "cannot open `jobs.db`: disk on fire");
    }

    /// An error that is its own cause.
    #[derive(Debug)]
    struct Ring(&'static str);

    impl fmt::Display for Ring {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Ring {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            static ENDS: [Ring; 2] = [Ring("head"), Ring("tail")];
            Some(if self.0 == "head" { &ENDS[1] } else { &ENDS[0] })
        }
    }

    #[test]
    fn chain_without_end_ends() {
        let words = chain(&Ring("head"));

        assert!(words.starts_with("head: tail: head: ") && words.ends_with(": …"), "{words}");
        assert_eq!(words.matches("tail").count(), MAX_CAUSES / 2);
        let main = format!("{:?}", Error::config("no").with_source(Ring("tail")));
        assert!(main.starts_with("no: tail: head: "), "{main}");
    }

    #[test]
    fn chain_of_long_errors_is_cut_between_two() {
        let long = Error::config("x".repeat(MAX_CHAIN));
        let error = Error::config("a").with_source(long.with_source(Error::config("b")));

        assert!(chain(&error).ends_with("xxx: …"));
    }

    #[test]
    fn error_that_main_returns_reads_well() {
        let error = Error::config("the URL lacks `://`").with_source("no scheme");

        assert_eq!(format!("{error:?}"), "the URL lacks `://`: no scheme");
        assert!(format!("{error:#?}").contains("kind: Config"));
    }
}
