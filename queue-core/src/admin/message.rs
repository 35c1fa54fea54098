//! A message in a queue, as [`browse`](super::Admin::browse) shows it.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use super::DeadLetter;
use crate::death;
use crate::envelope::{Envelope, Headers, Hidden, JobId, header};

/// A message in a queue, as [`Admin::browse`](super::Admin::browse) shows it. Its `Debug` prints the length of the payload, and
/// not the payload.
#[derive(Clone)]
#[non_exhaustive]
pub struct Message {
    /// The job's id. A message without one (AMQP `message_id`) may get another at each look.
    pub id: JobId,
    /// The task's name, if the message had one.
    pub task: Option<String>,
    /// Ready, delayed or dead.
    pub state: MessageState,
    /// The number of the next attempt, from 1; for a dead letter, the number of attempts that it had.
    pub attempt: u32,
    /// The number of its replays.
    pub replays: u32,
    /// AMQP `priority`.
    pub priority: Option<u8>,
    /// The moment that it was enqueued, in whole seconds; `None` if its program did not set it.
    pub enqueued_at: Option<SystemTime>,
    /// The queue in which it failed last, where that is known.
    pub failed_in: Option<String>,
    /// The kind of its last failure: the text of a [`ReasonKind`](crate::outcome::ReasonKind), or AMQP's own `rejected`,
    /// `expired`, `maxlen` or `delivery_limit`.
    pub kind: Option<String>,
    /// The error of its last attempt.
    pub error: Option<String>,
    /// The moment of its last failure.
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

/// The state of a [`Message`] in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageState {
    /// It waits to be delivered.
    Ready,
    /// It waits for its time: a delayed job, or a retry.
    Delayed {
        /// The moment that it is due.
        due: SystemTime,
    },
    /// It is a dead letter, and waits to be replayed or discarded. This is read from its headers, and so a job that the broker
    /// moved into a work queue by a dead-letter exchange is `Dead` as well.
    Dead,
}

impl Message {
    /// A message that is ready in its queue.
    pub(super) fn ready(job: &Envelope) -> Self {
        let is_dead = death::last(job).is_some() || job.headers.get(header::QUEUE).is_some();
        Self::new(job, if is_dead { MessageState::Dead } else { MessageState::Ready })
    }

    /// A message for a queue that is due at a moment.
    pub(super) fn delayed(job: &Envelope, due: SystemTime) -> Self {
        Self::new(job, MessageState::Delayed { due })
    }

    fn new(job: &Envelope, state: MessageState) -> Self {
        let DeadLetter { id, task, queue, kind, error, attempts, replays, failed_at, .. } =
            DeadLetter::new(job);
        Self {
            id,
            task,
            state,
            attempt: attempts,
            replays,
            priority: job.priority,
            enqueued_at: job.enqueued_at,
            failed_in: queue,
            kind,
            error,
            failed_at,
            content_type: job.content_type.clone(),
            content_encoding: job.content_encoding.clone(),
            app_id: job.app_id.clone(),
            cluster_id: job.cluster_id.clone(),
            headers: job.headers.clone(),
            payload: job.payload.clone(),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, task, state, attempt, replays, priority, enqueued_at, failed_in, kind, .. } = self;
        let Self {
            error,
            failed_at,
            content_type,
            content_encoding,
            app_id,
            cluster_id,
            headers,
            payload,
            ..
        } = self;
        f.debug_struct("Message")
            .field("id", id)
            .field("task", task)
            .field("state", state)
            .field("attempt", attempt)
            .field("replays", replays)
            .field("priority", priority)
            .field("enqueued_at", enqueued_at)
            .field("failed_in", failed_in)
            .field("kind", kind)
            .field("error", error)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::settlement::{Reason, ReasonKind, dead_copy, replay_copy, retry_copy};

    #[test]
    fn only_a_dead_letter_is_dead() {
        let reason = Reason::new(ReasonKind::Failed, "no luck");
        let now = clock::from_millis(5_000);
        let job = || Envelope::new("{}");
        let dead = dead_copy(job(), "emails", &reason, now);

        assert_eq!(Message::ready(&job()).state, MessageState::Ready);
        assert_eq!(Message::ready(&retry_copy(job(), 2, &reason, now)).state, MessageState::Ready);
        assert_eq!(Message::ready(&dead).state, MessageState::Dead);
        assert_eq!(Message::ready(&replay_copy(dead)).state, MessageState::Ready);
    }

    #[test]
    fn retry_says_why_it_is_one() {
        let reason = Reason::new(ReasonKind::Timeout, "took too long");
        let retry = retry_copy(Envelope::new("{}"), 2, &reason, clock::from_millis(5_000));

        let message = Message::delayed(&retry, clock::from_millis(9_000));

        assert_eq!(message.state, MessageState::Delayed { due: clock::from_millis(9_000) });
        assert_eq!((message.attempt, message.kind.as_deref()), (2, Some("timeout")));
        assert_eq!(message.error.as_deref(), Some("took too long"));
        assert_eq!(message.failed_at, Some(clock::from_millis(5_000)));
    }
}
