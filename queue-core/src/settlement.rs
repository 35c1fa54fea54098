//! What becomes of a delivery, and the copy of the job that a retry or a dead letter needs.
//!
//! The worker decides ([`retry::decide`](crate::retry::decide)), its `settle` calls
//! [`Delivery::settle`](crate::broker::Delivery::settle), the broker acts. The copies are made here, so that
//! every broker writes the same headers.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::death;
use crate::envelope::{Envelope, HeaderValue, Headers, header, truncate};

/// How much of a handler's error a job carries, in bytes.
pub const MAX_ERROR: usize = 4096;

/// What becomes of a delivery. Exactly one of these happens to it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Settlement {
    /// It is done; the broker forgets it.
    Ack,
    /// It runs again, not earlier than `after` from now.
    Retry {
        /// How long it waits at least.
        after: Duration,
        /// Which attempt the next run is. An unknown task keeps its number: nobody has tried it yet.
        attempt: u32,
        /// Why this attempt failed.
        reason: Reason,
    },
    /// It goes to the dead-letter exchange and is not tried again.
    DeadLetter {
        /// Why.
        reason: Reason,
    },
    /// It goes back to its queue as it came, for another worker. It costs no attempt.
    Release,
}

/// What kind of failure it was (`q-error-kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasonKind {
    /// The handler returned an error.
    Failed,
    /// The handler returned an error that a retry cannot mend.
    Permanent,
    /// The handler panicked.
    Panic,
    /// The handler did not finish within the task's timeout.
    Timeout,
    /// The message is not a job of this queue: not JSON, the wrong shape, or without a task.
    BadMessage,
    /// No worker has known the task for an hour.
    UnknownTask,
}

impl ReasonKind {
    /// The text in the header `q-error-kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Permanent => "permanent",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::BadMessage => "bad-message",
            Self::UnknownTask => "unknown-task",
        }
    }

    /// The kind of that text; `None` for the text of a later version.
    pub fn from_name(name: &str) -> Option<Self> {
        use ReasonKind::*;
        [Failed, Permanent, Panic, Timeout, BadMessage, UnknownTask]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a job is retried or dead: the headers `q-error-kind` and `q-error`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// What kind of failure it was.
    pub kind: ReasonKind,
    /// What was said, with the chain of causes; at most [`MAX_ERROR`] bytes.
    pub message: String,
}

impl Reason {
    /// A reason in words that an operator can act on. Cut to [`MAX_ERROR`] here, since it goes into logs and events
    /// too: an error that quotes a payload may be as long as that.
    pub fn new(kind: ReasonKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(truncate(&message, MAX_ERROR).len());
        Self { kind, message }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// The copy that runs again: attempt counted, failure noted, traces of brokers stripped.
pub fn retry_copy(mut job: Envelope, attempt: u32, reason: &Reason, now: SystemTime) -> Envelope {
    strip_broker_traces(&mut job);
    note_failure(&mut job, reason, now);
    job.attempt = attempt;
    // Whether it had expired was decided when it was delivered; a retry must not expire on its way.
    job.expiration = None;
    job
}

/// The copy for the dead-letter exchange: as it was, with the failure noted and the queue it failed in.
pub fn dead_copy(mut job: Envelope, queue: &str, reason: &Reason, now: SystemTime) -> Envelope {
    strip_broker_traces(&mut job);
    note_failure(&mut job, reason, now);
    job.headers.insert(header::QUEUE, queue);
    job.headers.remove(header::ETA);
    job.headers.remove(header::TARGET);
    job.expiration = None;
    job
}

/// The copy that is replayed: on its first attempt again, without what Leveret noted of its failure, and one replay more.
pub(crate) fn replay_copy(mut job: Envelope) -> Envelope {
    note_origin(&mut job);
    strip_broker_traces(&mut job);
    let int = |name: &str| job.headers.get(name).and_then(HeaderValue::as_int);
    let replays = int(header::REPLAYS).unwrap_or(0).max(0).saturating_add(1);
    // A job that was delayed carries its priority here.
    job.priority = int(header::PRIORITY).and_then(|priority| u8::try_from(priority).ok()).or(job.priority);
    // Where an event came from stays true of its replay, and so does what its body is.
    let stays = [header::EXCHANGE, header::ROUTING_KEY, header::VERSION, header::USER_ID, header::NO_ID];
    job.headers.retain(|name, _| !name.starts_with("q-") || stays.contains(&name));
    job.headers.insert(header::REPLAYS, replays);
    job.attempt = 1;
    // Who called it has long been told, or has given up: it is a job like any other now.
    job.reply_to = None;
    job
}

/// The copy that takes a message's place in its own queue: the same to whoever looks at it.
#[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "elsewhere looking takes nothing"))]
pub(crate) fn renewed_copy(mut job: Envelope) -> Envelope {
    if let Some(death) = death::last(&job) {
        let (queue, reason) = (death.queue().map(str::to_owned), death.reason().map(str::to_owned));
        let at = death.at().map(clock::to_millis);
        if let Some(queue) = queue {
            job.headers.insert(header::QUEUE, queue);
        }
        if let Some(reason) = reason {
            job.headers.insert(header::ERROR_KIND, reason);
        }
        if let Some(at) = at {
            job.headers.insert(header::FAILED_AT, at);
        }
    }
    note_origin(&mut job);
    strip_broker_traces(&mut job);
    job
}

/// Notes where an event came from that no worker has had: the broker wrote it into `x-death`, which is stripped.
fn note_origin(job: &mut Envelope) {
    if job.headers.get(header::EXCHANGE).is_some() {
        return;
    }
    let origin = death::last(job).and_then(death::Death::origin);
    if let Some((exchange, key)) = origin.map(|(exchange, key)| (exchange.to_owned(), key.to_owned())) {
        job.headers.insert(header::EXCHANGE, exchange);
        job.headers.insert(header::ROUTING_KEY, key);
    }
}

/// Takes out what brokers wrote on the message's way: RabbitMQ 3 silently drops a copy that carries a cycle. Also
/// `CC` and `BCC`, by which a producer sends to more queues: a copy would go to all of them once more.
/// See <https://www.rabbitmq.com/docs/sender-selected>.
pub fn strip_broker_traces(job: &mut Envelope) {
    job.headers.retain(|name, _| !header::is_broker_trace(name) && name != "CC" && name != "BCC");
}

fn note_failure(job: &mut Envelope, reason: &Reason, now: SystemTime) {
    // A foreign producer may have sent more headers than fit beside ours: its bulk goes, our reason stays. A copy
    // that cannot be published would leave the original to be tried for ever.
    let over = |job: &Envelope| job.headers.wire_size() + MAX_ERROR + 1024 > Headers::MAX_SIZE;
    if over(job) {
        job.headers.retain(|_, value| is_small(value));
    }
    if over(job) {
        let kept = [header::UNKNOWN_SINCE, header::REPLAYS, header::VERSION, header::USER_ID, header::NO_ID];
        job.headers.retain(|name, _| kept.contains(&name));
    }
    job.headers.insert(header::ERROR, truncate(&reason.message, MAX_ERROR));
    job.headers.insert(header::ERROR_KIND, reason.kind.as_str());
    job.headers.insert(header::FAILED_AT, clock::to_millis(now));
}

fn is_small(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::String(text) => text.len() <= 256,
        HeaderValue::Bytes(bytes) => bytes.len() <= 256,
        HeaderValue::List(_) | HeaderValue::Table(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn failed() -> Reason {
        Reason::new(ReasonKind::Failed, "mail server said 451")
    }

    #[test]
    fn retry_copy_counts_the_attempt_and_strips_broker_traces() {
        let mut job = Envelope::new("{}");
        job.headers.insert("x-death", HeaderValue::List(vec![]));
        job.headers.insert("x-delivery-count", 3_i64);
        job.headers.insert("CC", HeaderValue::List(vec!["audit".into()]));
        job.headers.insert("tenant", "blue");

        let copy = retry_copy(job, 2, &failed(), UNIX_EPOCH);

        assert_eq!(copy.attempt, 2);
        assert_eq!(copy.headers.get("x-death"), None);
        assert_eq!(copy.headers.get("x-delivery-count"), None);
        assert_eq!(copy.headers.get("CC"), None);
        assert_eq!(copy.headers.get("tenant"), Some(&"blue".into()));
        assert_eq!(copy.headers.get(header::ERROR), Some(&"mail server said 451".into()));
    }

    #[test]
    fn dead_copy_says_where_and_why_and_fits_one_frame() {
        let mut job = Envelope::new("{}");
        job.headers.insert("blob", "x".repeat(31 * 1024));
        let reason = Reason::new(ReasonKind::Panic, "é".repeat(5000));

        let copy = dead_copy(job, "emails", &reason, UNIX_EPOCH);

        assert_eq!(copy.headers.get(header::QUEUE), Some(&"emails".into()));
        assert_eq!(copy.headers.get(header::ERROR_KIND), Some(&"panic".into()));
        assert!(copy.headers.get(header::ERROR).unwrap().as_str().unwrap().len() <= MAX_ERROR);
        assert!(copy.headers.wire_size() < Headers::MAX_SIZE);
    }
}
