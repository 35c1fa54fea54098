//! Looks into queues and acts on what is there: depth, dead letters, replay. For operators and their tools; a
//! job's own way does not come through here.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::broker::{ConsumeOptions, Consumer, Delivery, Publish, QueueStats};
use crate::client::Client;
use crate::clock;
use crate::envelope::{Envelope, HeaderValue, Hidden, JobId, header};
use crate::error::{Error, ErrorKind, Result};
use crate::settlement::{Settlement, strip_broker_traces};
use crate::task::Task;

/// How long a queue that counted messages may take to hand over the next one. Another consumer may have taken
/// it, so running out of time is no error.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks into queues and acts on what is there. Made by [`Client::admin`].
///
/// ```no_run
/// # async fn f(client: queue_core::client::Client) -> queue_core::error::Result<()> {
/// let admin = client.admin();
/// for letter in admin.dead_letters("emails.dead", 100).await? {
///     println!("{} after {} attempts: {}", letter.id, letter.attempts, letter.error.unwrap_or_default());
/// }
/// // The mail server is back: what it refused runs again, and what was wrong by itself stays.
/// let replayed = admin.replay("emails.dead", 100, |letter| letter.kind.as_deref() == Some("failed")).await?;
/// println!("{replayed} jobs run again");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

/// A job that will not be tried again, as it lies in a dead-letter queue. Its `Debug` says how long the payload is, and
/// not what is in it.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The job's id. A message that came without one (AMQP `message_id`) is given another at each look.
    pub id: JobId,
    /// The task's name, if the message had one.
    pub task: Option<String>,
    /// The queue that it failed in, where that is known.
    pub queue: Option<String>,
    /// Why it is dead: a [`ReasonKind`](crate::outcome::ReasonKind) of ours, or AMQP's own `rejected`, `expired`,
    /// `maxlen` or `delivery_limit`.
    pub kind: Option<String>,
    /// What the last attempt said.
    pub error: Option<String>,
    /// How many attempts it had.
    pub attempts: u32,
    /// When it failed; AMQP's own dead letters carry whole seconds.
    pub failed_at: Option<SystemTime>,
    /// The payload as it crossed the wire.
    pub payload: Bytes,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, task, queue, kind, error, attempts, failed_at, payload } = self;
        f.debug_struct("DeadLetter")
            .field("id", id)
            .field("task", task)
            .field("queue", queue)
            .field("kind", kind)
            .field("error", error)
            .field("attempts", attempts)
            .field("failed_at", failed_at)
            .field("payload", &Hidden(payload))
            .finish()
    }
}

impl DeadLetter {
    fn new(job: &Envelope) -> Self {
        let text = |name: &str| job.headers.get(name).and_then(HeaderValue::as_str).map(str::to_owned);
        let death = last_death(job);
        let of_death = |name: &str| death.and_then(|death| death.get(name));
        let death_time = match of_death("time") {
            Some(HeaderValue::Timestamp(seconds)) => {
                Some(clock::from_millis((*seconds as i64).saturating_mul(1000)))
            }
            _ => None,
        };
        let of_death = |name: &str| of_death(name).and_then(HeaderValue::as_str).map(str::to_owned);
        // A job that we retried and the broker then expired carries both; what the broker wrote came last.
        Self {
            id: job.id.clone(),
            task: job.task.clone(),
            queue: of_death("queue").or_else(|| text(header::QUEUE)),
            kind: of_death("reason").or_else(|| text(header::ERROR_KIND)),
            error: text(header::ERROR),
            attempts: job.attempt,
            failed_at: death_time
                .or_else(|| job.headers.get(header::FAILED_AT)?.as_int().map(clock::from_millis)),
            payload: job.payload.clone(),
        }
    }
}

/// The newest entry of `x-death`: which queue the broker took the message from, and why.
fn last_death(job: &Envelope) -> Option<&crate::envelope::Headers> {
    match job.headers.get("x-death")? {
        HeaderValue::List(deaths) => match deaths.first()? {
            HeaderValue::Table(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

/// Keeps where an event came from that no worker has had: the broker wrote it into `x-death`, which is stripped.
fn remember_origin(job: &mut Envelope) {
    if job.headers.get(header::EXCHANGE).is_some() {
        return;
    }
    let Some(death) = last_death(job) else { return };
    let exchange = death.get("exchange").and_then(HeaderValue::as_str).filter(|name| !name.is_empty());
    let key = match death.get("routing-keys") {
        Some(HeaderValue::List(keys)) => keys.first().and_then(HeaderValue::as_str),
        _ => None,
    };
    if let (Some(exchange), Some(key)) = (exchange.map(str::to_owned), key.map(str::to_owned)) {
        job.headers.insert(header::EXCHANGE, exchange);
        job.headers.insert(header::ROUTING_KEY, key);
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// How deep a queue is.
    ///
    /// # Errors
    /// If it does not exist.
    pub async fn depth(&self, queue: &str) -> Result<QueueStats> {
        self.client.broker().inspect(queue).await
    }

    /// The oldest `limit` dead letters of a dead-letter queue, such as `emails.dead`. They stay where they are.
    /// While it looks, other consumers do not get them.
    ///
    /// # Errors
    /// If the queue does not exist or may not be consumed.
    pub async fn dead_letters(&self, queue: &str, limit: u16) -> Result<Vec<DeadLetter>> {
        let (held, consumer) = self.hold(queue, limit).await?;
        let letters = held.iter().map(|delivery| DeadLetter::new(&delivery.envelope)).collect();
        for delivery in held {
            release(delivery).await;
        }
        finish(consumer).await;
        Ok(letters)
    }

    /// The same of the dead-letter queue of a task's queue, which is declared where that has not been done. There are none
    /// with `dlx = none`.
    ///
    /// # Errors
    /// If the queue cannot be declared, or may not be consumed.
    pub async fn dead_letters_of<T: Task>(&self, limit: u16) -> Result<Vec<DeadLetter>> {
        let Some(queue) = T::queue().dead_queue() else { return Ok(Vec::new()) };
        self.client.declare_queue(T::queue()).await?;
        self.dead_letters(&queue, limit).await
    }

    /// Puts those of the oldest `limit` dead letters that `choose` picks back into the queue they failed in, as
    /// new jobs on their first attempt, and says how many. The new job names the old one in `q-replay-of`.
    ///
    /// Each new job is confirmed before its dead letter is taken away: a crash in between leaves both.
    ///
    /// # Errors
    /// If the queue does not exist, or at the first letter whose queue is unknown or takes no jobs; that one and
    /// those behind it stay.
    pub async fn replay(
        &self,
        queue: &str,
        limit: u16,
        mut choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize> {
        let (held, consumer) = self.hold(queue, limit).await?;
        let mut replayed = 0;
        let mut failure = None;
        for delivery in held {
            let letter = DeadLetter::new(&delivery.envelope);
            if failure.is_some() || !choose(&letter) {
                release(delivery).await;
                continue;
            }
            match self.replay_one(queue, delivery, letter.queue).await {
                Ok(()) => replayed += 1,
                Err(error) => failure = Some(error),
            }
        }
        finish(consumer).await;
        failure.map_or(Ok(replayed), Err)
    }

    async fn replay_one(&self, queue: &str, delivery: Delivery, target: Option<String>) -> Result<()> {
        let id = delivery.envelope.id.clone();
        let Some(target) = target else {
            release(delivery).await;
            let words = format!(
                "job `{id}` in queue `{queue}` does not say which queue it failed in: is `{queue}` a dead-letter queue? If \
                 it is, enqueue the job by hand"
            );
            return Err(Error::new(ErrorKind::Topology, words));
        };
        let mut job = delivery.envelope.clone();
        remember_origin(&mut job);
        strip_broker_traces(&mut job);
        // Where an event came from stays true of its replay, and so does what its body is.
        let stays = |name: &str| {
            let stays =
                [header::EXCHANGE, header::ROUTING_KEY, header::VERSION, header::USER_ID, header::NO_ID];
            stays.contains(&name)
        };
        job.headers.retain(|name, _| !name.starts_with("q-") || stays(name));
        job.headers.insert(header::REPLAY_OF, id.as_str());
        job.id = JobId::new();
        job.attempt = 1;
        // Who called it has long been told, or has given up: it is a job like any other now.
        job.reply_to = None;
        if let Err(error) = self.client.broker().publish(Publish::to_queue(target.clone(), job)).await {
            release(delivery).await;
            let words = format!("dead letter `{id}` could not be replayed into queue `{target}`");
            return Err(Error::new(ErrorKind::Topology, words).with_source(error));
        }
        delivery.settle(Settlement::Ack).await.map_err(|error| {
            Error::new(ErrorKind::Connection, format!("dead letter `{id}` was replayed, but also stays"))
                .with_source(error)
        })
    }

    /// Takes the oldest `limit` messages without settling them. The consumer must outlive them.
    async fn hold(&self, queue: &str, limit: u16) -> Result<(Vec<Delivery>, Consumer)> {
        crate::runtime::require("looking at dead letters")?;
        let broker = self.client.broker();
        let there = broker.inspect(queue).await?.ready;
        let wanted = usize::from(limit).min(usize::try_from(there).unwrap_or(usize::MAX));
        let options = ConsumeOptions::new(queue.to_owned()).prefetch(limit);
        let mut consumer = broker.consume(options).await?;
        let mut held = Vec::with_capacity(wanted);
        while held.len() < wanted {
            match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(Some(delivery)) => held.push(delivery?),
                Ok(None) | Err(_) => break,
            }
        }
        // A quorum queue counts late what has just come back to it, but hands it over.
        while held.len() < usize::from(limit)
            && let Some(delivery) = consumer.try_next()
        {
            held.push(delivery?);
        }
        consumer.stop();
        Ok((held, consumer))
    }
}

/// Waits until what was given back is in its queue again: who looks and then replays must find it there.
async fn finish(consumer: Consumer) {
    if tokio::time::timeout(PATIENCE, consumer.finish()).await.is_err() {
        tracing::debug!("the broker does not say that it has the dead letters back");
    }
}

/// Gives a message back. One that cannot be given back is given back by the broker itself.
async fn release(delivery: Delivery) {
    if let Err(error) = delivery.settle(Settlement::Release).await {
        tracing::debug!(%error, "a dead letter was not released by hand");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Headers;
    use crate::settlement::{Reason, ReasonKind, dead_copy};

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
    fn dead_letter_of_the_broker_is_read_from_x_death() {
        let mut job = Envelope::new("{}");
        let death = Headers::from([
            ("queue", HeaderValue::from("orders")),
            ("reason", "expired".into()),
            ("time", HeaderValue::Timestamp(7)),
        ]);
        job.headers.insert("x-death", HeaderValue::List(vec![HeaderValue::Table(death)]));

        let letter = DeadLetter::new(&job);

        assert_eq!(letter.queue.as_deref(), Some("orders"));
        assert_eq!(letter.kind.as_deref(), Some("expired"));
        assert_eq!(letter.failed_at, Some(clock::from_millis(7_000)));
    }
}
