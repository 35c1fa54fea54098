//! The settlement of a delivery, and the copy of the job that a retry, a snooze or a dead letter needs.
//!
//! The worker decides ([`retry::decide`](crate::retry::decide)), its `settle` calls
//! [`Delivery::settle`](crate::broker::Delivery::settle), the broker acts. The copies are made here, so that
//! every broker writes the same headers.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::death;
use crate::envelope::{Envelope, HeaderValue, Headers, header, truncate};
use crate::topology::Name;

/// The largest part of a handler's error that a job carries, in bytes.
pub const MAX_ERROR: usize = 4096;

/// The settlement of a delivery: each is settled in exactly one of these ways.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Settlement {
    /// The job is done; the broker deletes it.
    Ack,
    /// The job runs again, not earlier than `after` from now.
    Retry {
        /// The shortest wait.
        after: Duration,
        /// The number of the next attempt. A job of an unknown task keeps its number, since it was not tried.
        attempt: u32,
        /// The reason why this attempt failed.
        reason: Reason,
    },
    /// The job comes again, not earlier than `until`. It was not tried, so this costs no attempt and records no failure. The
    /// headers of an earlier failure stay.
    Snooze {
        /// The moment from which it may run again. A moment in the past means as soon as possible.
        until: SystemTime,
    },
    /// A copy of the job goes into this queue at once, marked as delivered before. It was not tried, so this costs no attempt and
    /// records no failure. The settlement is done when the broker has confirmed the copy and has received the ack of the original:
    /// the copy may end the process that runs it, and must not leave the original behind. On RabbitMQ an ack may still be on its way from
    /// the channel to a quorum queue, when more than 32 settlements of that channel are.
    Move {
        /// The queue, which may be its own.
        queue: Name,
        /// The headers that the copy gets beside those of the job. [`HeaderValue::Null`] removes one.
        headers: Headers,
    },
    /// The job goes to the dead-letter exchange and is not tried again.
    DeadLetter {
        /// The reason why it is dead.
        reason: Reason,
    },
    /// The job goes back to its queue unchanged, for another worker. This costs no attempt, and does not count towards the delivery
    /// limit of its queue.
    ///
    /// A quorum queue of RabbitMQ counts each return of a message; 4.3 counts messages that were given back separately, and two
    /// of those count as one crash. One return before the job would look like one that has crashed
    /// [`crash_limit`](crate::topology::QueueSpec::crash_limit) workers, a copy is published in its place. The copy stands at the
    /// end of the queue, and its time to live begins anew. If that is not possible (RabbitMQ takes no messages at the moment,
    /// or the queue is full), the job goes back all the same, and is counted. So before 4.3 a policy must not set a delivery limit
    /// below the crash limit.
    Release,
}

/// The kind of a failure (`q-error-kind`).
///
/// ```
/// use leveret::ReasonKind;
///
/// assert_eq!(ReasonKind::BadMessage.as_str(), "bad-message");
/// assert_eq!(ReasonKind::from_name("timeout"), Some(ReasonKind::Timeout));
/// ```
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
    /// The processes of its workers ended again and again while they ran it, in the end while they ran no other job.
    CrashLoop,
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
            Self::CrashLoop => "crash-loop",
        }
    }

    /// The kind of that text; `None` for the text of a later version.
    pub fn from_name(name: &str) -> Option<Self> {
        use ReasonKind::*;
        [Failed, Permanent, Panic, Timeout, BadMessage, UnknownTask, CrashLoop]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why a job is retried or dead: the headers `q-error-kind` and `q-error`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// The kind of failure.
    pub kind: ReasonKind,
    /// The error, with its chain of causes; at most [`MAX_ERROR`] bytes.
    pub message: String,
}

impl Reason {
    /// A reason with a message that an operator can act on. The message is cut to [`MAX_ERROR`] bytes here, since it goes into
    /// logs and events too, and an error that quotes a payload may be as long as the payload.
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

/// The copy that runs again: attempt and copy counted, failure noted, traces of brokers stripped.
pub fn retry_copy(mut job: Envelope, attempt: u32, reason: &Reason, now: SystemTime) -> Envelope {
    strip_broker_traces(&mut job);
    note_failure(&mut job, reason, now);
    count_copy(&mut job);
    job.attempt = attempt;
    // Its time to live ended with its delivery; a retry must not expire on its way.
    job.expiration = None;
    job
}

/// The copy that comes again later without an attempt: copy counted, traces of brokers stripped, and all else unchanged.
pub fn snooze_copy(mut job: Envelope) -> Envelope {
    strip_broker_traces(&mut job);
    make_room(&mut job, NOTES);
    count_copy(&mut job);
    // Like a retry, a job that waits for its time must not expire on its way.
    job.expiration = None;
    job
}

/// The copy that replaces a returned job where the broker would count the return: copy counted, marked as delivered before,
/// traces of brokers stripped, and all else unchanged. The job was published to `exchange` with `routing_key`.
#[cfg_attr(
    not(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system")),
    allow(dead_code, reason = "only brokers make copies")
)]
pub(crate) fn given_back_copy(mut job: Envelope, exchange: &str, routing_key: &str) -> Envelope {
    strip_broker_traces(&mut job);
    note_route(&mut job, exchange, routing_key);
    make_room(&mut job, NOTES);
    count_copy(&mut job);
    job.headers.insert(header::REDELIVERED, true);
    job
}

/// The copy that goes into another queue, or into its own again: like `given_back_copy`, with `headers` over its own.
#[cfg_attr(
    not(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system")),
    allow(dead_code, reason = "only brokers make copies")
)]
pub(crate) fn moved_copy(job: Envelope, headers: Headers) -> Envelope {
    let mut copy = given_back_copy(job, "", "");
    for (name, value) in headers.iter() {
        match value {
            HeaderValue::Null => drop(copy.headers.remove(name)),
            value => copy.headers.insert(name, value.clone()),
        }
    }
    // Like a retry, it must not expire on its way.
    copy.expiration = None;
    copy
}

/// The copy for the dead-letter exchange: the job, with its failure and the queue in which it failed. It keeps the number of the
/// copy that failed: a dead letter does not run, and its replay is the next copy.
pub fn dead_copy(mut job: Envelope, queue: &str, reason: &Reason, now: SystemTime) -> Envelope {
    strip_broker_traces(&mut job);
    note_failure(&mut job, reason, now);
    job.headers.insert(header::QUEUE, queue);
    job.headers.remove(header::ETA);
    job.headers.remove(header::TARGET);
    job.expiration = None;
    job
}

/// The copy that is replayed: on its first attempt again, without Leveret's record of its failure, with one more replay and one
/// more copy.
pub(crate) fn replay_copy(mut job: Envelope) -> Envelope {
    note_origin(&mut job);
    strip_broker_traces(&mut job);
    let int = |name: &str| job.headers.get(name).and_then(HeaderValue::as_int);
    let replays = int(header::REPLAYS).unwrap_or(0).max(0).saturating_add(1);
    // A job that was delayed carries its priority here.
    job.priority = int(header::PRIORITY).and_then(|priority| u8::try_from(priority).ok()).or(job.priority);
    count_copy(&mut job);
    // The origin of an event and the format of its body stay true for its replay.
    let stays = [
        header::COPY,
        header::SERIAL,
        header::EXCHANGE,
        header::ROUTING_KEY,
        header::VERSION,
        header::USER_ID,
        header::NO_ID,
    ];
    job.headers.retain(|name, _| !name.starts_with("q-") || stays.contains(&name));
    job.headers.insert(header::REPLAYS, replays);
    job.attempt = 1;
    // Its caller has its answer, or has given up: the replay is a job like any other.
    job.reply_to = None;
    job
}

/// The copy that replaces a message in its own queue, with the same content. It keeps its number, since looking changes nothing:
/// if both exist after a crash, they are one errand, which need not run twice.
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

/// Records the exchange and key that a job was published with, on a copy that goes to a queue. An earlier copy's record stays.
pub(crate) fn note_route(job: &mut Envelope, exchange: &str, routing_key: &str) {
    if !exchange.is_empty() && job.headers.get(header::EXCHANGE).is_none() {
        job.headers.insert(header::EXCHANGE, exchange);
        job.headers.insert(header::ROUTING_KEY, routing_key);
    }
}

/// Records the origin of an event that no worker has had: the broker wrote it into `x-death`, which is stripped.
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

/// Removes the headers that brokers wrote on the message's way: RabbitMQ 3 silently drops a copy that carries a cycle. Also
/// removes `CC` and `BCC`, by which a producer sends to more queues: a copy would go to all of them again (see
/// <https://www.rabbitmq.com/docs/sender-selected>), and the mark of a redelivery.
pub fn strip_broker_traces(job: &mut Envelope) {
    let stays =
        |name: &str| !header::is_broker_trace(name) && !["CC", "BCC", header::REDELIVERED].contains(&name);
    job.headers.retain(|name, _| stays(name));
}

/// Counts one more copy of the job.
fn count_copy(job: &mut Envelope) {
    let number = job.copy_number().saturating_add(1);
    job.headers.insert(header::COPY, i64::from(number));
}

fn note_failure(job: &mut Envelope, reason: &Reason, now: SystemTime) {
    // Replaces the record of an earlier attempt.
    for name in [header::ERROR, header::ERROR_KIND, header::FAILED_AT] {
        job.headers.remove(name);
    }
    make_room(job, MAX_ERROR + NOTES);
    job.headers.insert(header::ERROR, truncate(&reason.message, MAX_ERROR));
    job.headers.insert(header::ERROR_KIND, reason.kind.as_str());
    job.headers.insert(header::FAILED_AT, clock::to_millis(now));
}

/// The largest size of the headers that we add to a copy beside an error, in bytes: its number, its wait and its queue.
const NOTES: usize = 1024;

/// Makes room for `bytes` of headers beside those of the job. If another program sent too many, the bulk of its headers is
/// dropped and ours stay: a copy that cannot be published would leave the original to be tried for ever.
fn make_room(job: &mut Envelope, bytes: usize) {
    let over = |job: &Envelope| job.headers.wire_size() + bytes > Headers::MAX_SIZE;
    if over(job) {
        job.headers
            .retain(|name, value| is_small(value) || is_our_error(name, value) || name == header::BEGUN);
    }
    if over(job) {
        job.headers.retain(|name, _| KEPT.contains(&name));
    }
}

/// The headers that a job must keep.
const KEPT: [&str; 16] = [
    header::COPY,
    header::CRASHES,
    header::BEGUN,
    header::SERIAL,
    header::REPLAYS,
    header::UNKNOWN_SINCE,
    header::VERSION,
    header::USER_ID,
    header::NO_ID,
    header::EXCHANGE,
    header::ROUTING_KEY,
    header::DEADLINE,
    header::ERROR,
    header::ERROR_KIND,
    header::FAILED_AT,
    header::WORKER,
];

fn is_our_error(name: &str, value: &HeaderValue) -> bool {
    name == header::ERROR && value.as_str().is_some_and(|text| text.len() <= MAX_ERROR)
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
    fn kind_of_a_reason_is_found_by_its_text() {
        for (kind, text) in [(ReasonKind::UnknownTask, "unknown-task"), (ReasonKind::CrashLoop, "crash-loop")]
        {
            assert_eq!((kind.as_str(), ReasonKind::from_name(text)), (text, Some(kind)));
        }
        assert_eq!(ReasonKind::from_name("of a later version"), None);
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
    fn given_back_copy_is_the_job_marked_as_delivered_before() {
        let mut job = retry_copy(Envelope::new("{}"), 2, &failed(), UNIX_EPOCH);
        job.priority = Some(4);
        job.expiration = Some(Duration::from_secs(1));
        job.headers.insert("x-delivery-count", 2_i64);
        let before = job.clone();

        let copy = given_back_copy(job, "shop", "order.paid");

        let mut headers = before.headers;
        headers.remove("x-delivery-count");
        headers.insert(header::COPY, 2_i64);
        headers.insert(header::REDELIVERED, true);
        headers.insert(header::EXCHANGE, "shop");
        headers.insert(header::ROUTING_KEY, "order.paid");
        assert_eq!(copy.headers, headers);
        assert_eq!((&copy.id, copy.attempt), (&before.id, 2));
        assert_eq!((copy.priority, copy.expiration), (Some(4), before.expiration));
        // Where an event came from stays as the first copy says it, and only a copy that is given back is marked.
        let again = given_back_copy(copy.clone(), "other", "key");
        assert_eq!(again.headers.get(header::EXCHANGE), Some(&"shop".into()));
        for other in [snooze_copy(copy.clone()), retry_copy(copy, 3, &failed(), UNIX_EPOCH)] {
            assert_eq!(other.headers.get(header::REDELIVERED), None);
        }
    }

    fn numbered(number: impl Into<HeaderValue>) -> Envelope {
        let mut job = Envelope::new("{}");
        job.headers.insert(header::COPY, number);
        job
    }

    #[test]
    fn every_copy_that_runs_counts_up_and_a_dead_letter_keeps_its_number() {
        let retry = |job| retry_copy(job, 2, &failed(), UNIX_EPOCH);
        let dead = |job| dead_copy(job, "emails", &failed(), UNIX_EPOCH);

        let retried = retry(Envelope::new("{}"));
        let snoozed = snooze_copy(retried.clone());
        let letter = dead(snoozed.clone());
        let replayed = replay_copy(letter.clone());
        let again = replay_copy(dead(retry(replayed.clone())));

        let numbers = [&retried, &snoozed, &letter, &replayed, &again].map(Envelope::copy_number);
        assert_eq!(numbers, [1, 2, 2, 3, 5]);
        assert_eq!(renewed_copy(letter).copy_number(), 2);
    }

    #[test]
    fn number_of_a_copy_that_makes_no_sense_is_counted_on_from_within_bounds() {
        let next = |number: HeaderValue| snooze_copy(numbered(number)).headers.remove(header::COPY);

        assert_eq!(next((-7_i64).into()), Some(1_i64.into()));
        assert_eq!(next(HeaderValue::Int(i64::MIN)), Some(1_i64.into()));
        assert_eq!(next("many".into()), Some(1_i64.into()));
        assert_eq!(next(HeaderValue::Int(i64::MAX)), Some(u32::MAX.into()));
        assert_eq!(next(u32::MAX.into()), Some(u32::MAX.into()));
    }

    #[test]
    fn snooze_copy_notes_no_failure_and_keeps_an_earlier_one() {
        let mut job = retry_copy(Envelope::new("{}"), 2, &failed(), UNIX_EPOCH);
        job.priority = Some(4);
        job.reply_to = Some("replies".to_owned());
        job.correlation_id = Some("7".to_owned());
        job.expiration = Some(Duration::from_secs(1));
        job.headers.insert(header::EXCHANGE, "shop");
        job.headers.insert("x-death", HeaderValue::List(vec![]));
        job.headers.insert("tenant", "blue");
        let before = job.clone();

        let copy = snooze_copy(job);

        let mut headers = before.headers;
        headers.remove("x-death");
        headers.insert(header::COPY, 2_i64);
        assert_eq!(copy.headers, headers);
        assert_eq!((copy.attempt, copy.priority, copy.expiration), (2, Some(4), None));
        assert_eq!((copy.reply_to, copy.correlation_id), (before.reply_to, before.correlation_id));
        assert_eq!(snooze_copy(Envelope::new("{}")).headers.len(), 1);
    }

    /// Its headers alone would fit, but not beside those that a copy gets.
    #[test]
    fn copies_of_a_job_with_too_many_headers_fit_and_keep_what_we_noted() {
        let mut job =
            retry_copy(numbered(6_i64), 2, &Reason::new(ReasonKind::Failed, "e".repeat(5000)), UNIX_EPOCH);
        job.headers.insert(header::REPLAYS, 3_i64);
        job.headers.insert(header::EXCHANGE, "shop");
        let mut bulky = job.clone();
        bulky.headers.insert("blob", "x".repeat(27 * 1024));
        let mut many = job.clone();
        many.headers = many
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .chain((0..1000).map(|n| (format!("header-{n:04}"), "0123456789".into())))
            .collect();
        let ours = |job: &Envelope| {
            [header::ERROR, header::REPLAYS, header::EXCHANGE].map(|name| job.headers.get(name).cloned())
        };

        for bulky in [bulky, many] {
            let snoozed = snooze_copy(bulky.clone());
            let dead = dead_copy(bulky, "emails", &failed(), UNIX_EPOCH);

            assert!(snoozed.headers.wire_size() + 512 < Headers::MAX_SIZE);
            assert_eq!((snoozed.copy_number(), ours(&snoozed)), (8, ours(&job)));
            assert_eq!((dead.copy_number(), dead.headers.get(header::REPLAYS)), (7, Some(&3_i64.into())));
        }
    }

    /// Text of any length may stand in a header by our name that a foreign producer wrote.
    #[test]
    fn forged_error_does_not_make_a_copy_too_large() {
        let mut job = Envelope::new("{}");
        job.headers.insert(header::ERROR, "x".repeat(32 * 1024));

        let copy = snooze_copy(job);

        assert!(copy.headers.wire_size() < 100, "{copy:?}");
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
