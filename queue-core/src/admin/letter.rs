//! A dead letter, as an operator sees it.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use crate::clock;
use crate::death;
use crate::envelope::{Envelope, HeaderValue, Headers, Hidden, JobId, header};

/// A job that will not be tried again, as it lies in a dead-letter queue. Shown by
/// [`Admin::dead_letters`](super::Admin::dead_letters). Its `Debug` prints the length of the payload, and not the payload.
///
/// ```
/// use leveret::DeadLetter;
///
/// fn describe(letter: &DeadLetter) -> String {
///     let task = letter.task.as_deref().unwrap_or("(no task)");
///     let error = letter.error.as_deref().unwrap_or("(no error)");
///     format!("{task} {} failed {} times: {error}", letter.id, letter.attempts)
/// }
///
/// fn is_worth_a_replay(letter: &DeadLetter) -> bool {
///     letter.kind.as_deref() == Some("failed") && letter.replays < 3
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The job's id. A message without one (AMQP `message_id`) may get another at each look.
    pub id: JobId,
    /// The task's name, if the message had one.
    pub task: Option<String>,
    /// The queue in which it failed, or that it was meant for, where that is known.
    pub queue: Option<String>,
    /// The kind of failure: the text of a [`ReasonKind`](crate::outcome::ReasonKind), or AMQP's own `rejected`, `expired`,
    /// `maxlen` or `delivery_limit`.
    pub kind: Option<String>,
    /// The error of the last attempt, with its chain of causes.
    pub error: Option<String>,
    /// The number of attempts since it was enqueued or replayed last.
    pub attempts: u32,
    /// The number of its replays.
    pub replays: u32,
    /// The moment that it failed; AMQP's own dead letters carry whole seconds.
    pub failed_at: Option<SystemTime>,
    /// AMQP `content_type`: the format of the payload.
    pub content_type: Option<String>,
    /// AMQP `content_encoding`: how the payload is packed, such as `gzip`.
    pub content_encoding: Option<String>,
    /// AMQP `app_id`: the program that published the job, if the job names it.
    pub app_id: Option<String>,
    /// AMQP `cluster_id`.
    pub cluster_id: Option<String>,
    /// All headers as they crossed the wire: the job's, Leveret's (`q-`) and the broker's (`x-death`).
    pub headers: Headers,
    /// The payload as it crossed the wire.
    pub payload: Bytes,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, task, queue, kind, error, attempts, replays, failed_at, .. } = self;
        let Self { content_type, content_encoding, app_id, cluster_id, headers, payload, .. } = self;
        f.debug_struct("DeadLetter")
            .field("id", id)
            .field("task", task)
            .field("queue", queue)
            .field("kind", kind)
            .field("error", error)
            .field("attempts", attempts)
            .field("replays", replays)
            .field("failed_at", failed_at)
            .field("content_type", content_type)
            .field("content_encoding", content_encoding)
            .field("app_id", app_id)
            .field("cluster_id", cluster_id)
            .field("headers", headers)
            .field("payload", &Hidden(payload))
            .finish()
    }
}

impl DeadLetter {
    pub(super) fn new(job: &Envelope) -> Self {
        let header = |name: &str| job.headers.get(name);
        let text = |name: &str| header(name).and_then(HeaderValue::as_str).map(str::to_owned);
        let death = death::last(job);
        let failed_at = || header(header::FAILED_AT)?.as_int().map(clock::from_millis);
        let replays = header(header::REPLAYS).and_then(HeaderValue::as_int).unwrap_or(0);
        // A job that we retried and the broker then expired carries both; the broker's entry is the later one. A delayed job
        // whose queue was deleted names that queue; the broker knows only the queue in which it waited.
        Self {
            id: job.id.clone(),
            task: job.task.clone(),
            queue: text(header::TARGET)
                .or_else(|| death?.queue().map(str::to_owned))
                .or_else(|| text(header::QUEUE)),
            kind: death
                .and_then(|death| death.reason().map(str::to_owned))
                .or_else(|| text(header::ERROR_KIND)),
            error: text(header::ERROR),
            attempts: job.attempt,
            replays: u32::try_from(replays.max(0)).unwrap_or(u32::MAX),
            failed_at: death.and_then(death::Death::at).or_else(failed_at),
            content_type: job.content_type.clone(),
            content_encoding: job.content_encoding.clone(),
            app_id: job.app_id.clone(),
            cluster_id: job.cluster_id.clone(),
            headers: job.headers.clone(),
            payload: job.payload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settlement::{Reason, ReasonKind, dead_copy, renewed_copy};

    #[test]
    fn our_own_dead_letter_says_where_and_why() {
        let reason = Reason::new(ReasonKind::Permanent, "no such mailbox");
        let job = dead_copy(Envelope::new("{}"), "emails", &reason, clock::from_millis(5_000));

        let letter = DeadLetter::new(&job);

        assert_eq!(letter.queue.as_deref(), Some("emails"));
        assert_eq!(letter.kind.as_deref(), Some("permanent"));
        assert_eq!(letter.error.as_deref(), Some("no such mailbox"));
        assert_eq!(letter.failed_at, Some(clock::from_millis(5_000)));
    }

    #[test]
    fn dead_letter_of_the_broker_is_read_from_x_death_and_says_the_same_when_it_is_renewed() {
        let mut job = Envelope::new("{}");
        let death = Headers::from([
            ("queue", HeaderValue::from("orders")),
            ("reason", "expired".into()),
            ("time", HeaderValue::Timestamp(7)),
            ("exchange", "shop".into()),
            ("routing-keys", HeaderValue::List(vec!["order.placed".into()])),
        ]);
        job.headers.insert("x-death", HeaderValue::List(vec![HeaderValue::Table(death)]));
        job.headers.insert(header::ERROR_KIND, "failed");
        let renewed = renewed_copy(job.clone());

        for letter in [&job, &renewed].map(DeadLetter::new) {
            assert_eq!(letter.queue.as_deref(), Some("orders"));
            assert_eq!(letter.kind.as_deref(), Some("expired"));
            assert_eq!(letter.failed_at, Some(clock::from_millis(7_000)));
        }
        assert_eq!(renewed.headers.get("x-death"), None);
        assert_eq!(renewed.headers.get(header::EXCHANGE), Some(&"shop".into()));
        assert_eq!(renewed.headers.get(header::ROUTING_KEY), Some(&"order.placed".into()));
    }
}
