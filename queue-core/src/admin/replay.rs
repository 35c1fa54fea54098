//! Puts dead letters back into the queues in which they failed: each job is confirmed there before its letter is removed here.

use std::collections::HashMap;

use super::DeadLetter;
use super::interrupted::Interrupted;
use crate::broker::{Broker, Delivery, Found, Publish, Walk};
use crate::clock::from_millis;
use crate::envelope::{Envelope, HeaderValue, JobId, header};
use crate::error::{Error, ErrorKind, PublishError, Result};
use crate::settlement::{Settlement, replay_copy};

/// How many letters a step of the walk takes, at first and at most: a walk that ends soon has held few for nothing.
pub(super) const PAGES: (u16, u16) = (16, 1024);
/// How many bytes of payload a page may have, estimated from the page before it.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// One replay, on its way through a queue.
pub(super) struct Replay<'a> {
    broker: &'a dyn Broker,
    queue: &'a str,
    /// How many letters have been replayed.
    replayed: usize,
    /// Those jobs, with their number of replays before: a job that fails again at once is met again on this walk.
    own: HashMap<JobId, u32>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(broker: &'a dyn Broker, queue: &'a str) -> Self {
        Self { broker, queue, replayed: 0, own: HashMap::new() }
    }

    /// Replays up to `limit` of the letters that `choose` picks, and returns their number.
    ///
    /// # Errors
    /// At the first letter that cannot be replayed, with how many were before it.
    pub(super) async fn run(
        mut self,
        walk: &mut dyn Walk,
        limit: usize,
        choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize, Interrupted> {
        match self.go(walk, limit, choose).await {
            Ok(()) => Ok(self.replayed),
            Err(error) => Err(Interrupted::new(self.replayed, "replayed", error)),
        }
    }

    async fn go(
        &mut self,
        walk: &mut dyn Walk,
        limit: usize,
        mut choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<()> {
        let (mut page, _) = PAGES;
        while self.replayed < limit {
            let found = walk.next(page).await?;
            if found.is_empty() {
                break;
            }
            page = next_page(page, found.iter().map(|found| found.envelope.payload.len()));
            for found in found {
                let letter = DeadLetter::new(&found.envelope);
                let is_own = self.own.get(&letter.id).is_some_and(|replays| letter.replays == replays + 1);
                if is_own || !choose(&letter) {
                    continue;
                }
                self.one(walk, found, letter).await?;
                if self.replayed == limit {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn one(&mut self, walk: &mut dyn Walk, found: Found, letter: DeadLetter) -> Result<()> {
        let DeadLetter { id, queue: target, replays, .. } = letter;
        let Some(target) = target else {
            let queue = self.queue;
            let words = format!(
                "job `{id}` in queue `{queue}` does not say which queue it failed in: is `{queue}` a dead-letter queue? If \
                 it is, enqueue the job by hand"
            );
            return Err(Error::new(ErrorKind::Topology, words));
        };
        // Another operator may have taken the letter.
        let Some(delivery) = walk.take(found).await? else { return Ok(()) };
        if let Err(error) = self.broker.publish(publish(delivery.envelope.clone(), target.clone())).await {
            release(delivery).await;
            return Err(not_replayed(&id, &target, error));
        }
        self.replayed += 1;
        let settled = delivery.settle(Settlement::Ack).await.map_err(|error| {
            let words = format!("dead letter `{id}` was replayed, but also stays");
            Error::new(ErrorKind::Connection, words).with_source(error)
        });
        self.own.insert(id, replays);
        settled
    }
}

/// The error of a letter that was not replayed. A broker that is away is told apart from trouble with the letter or its queue.
fn not_replayed(id: &JobId, target: &str, error: PublishError) -> Error {
    let (kind, why) = match &error {
        PublishError::Unavailable { .. } | PublishError::Silent { .. } | PublishError::Blocked { .. } => {
            (ErrorKind::Connection, ": the broker is away, or takes nothing at the moment")
        }
        PublishError::Unconfirmed { .. } => {
            (ErrorKind::Connection, ": the broker went away meanwhile, and may have the job as well")
        }
        PublishError::Closed => (ErrorKind::Closed, ""),
        PublishError::Refused(_) => (ErrorKind::Refused, ""),
        _ => (ErrorKind::Topology, ""),
    };
    let words = format!("dead letter `{id}` could not be replayed into queue `{target}`{why}");
    Error::new(kind, words).with_source(error)
}

/// How many letters to look at after a page of letters with so many bytes each.
pub(super) fn next_page(page: u16, bytes: impl ExactSizeIterator<Item = usize>) -> u16 {
    let (_, most) = PAGES;
    let len = bytes.len();
    let average = bytes.sum::<usize>() / len.max(1);
    let fit = u16::try_from(PAGE_BYTES / average.max(1)).unwrap_or(most);
    page.saturating_mul(2).min(fit).clamp(1, most)
}

/// The job as it goes back into its queue. A delayed job that was set aside before its time goes on waiting.
fn publish(job: Envelope, target: String) -> Publish {
    let eta = job.headers.get(header::ETA).and_then(HeaderValue::as_int).map(from_millis);
    let mut publish = Publish::to_queue(target, replay_copy(job));
    publish.not_before = eta;
    publish
}

/// Gives a letter back. If that fails, the broker does it by itself.
async fn release(delivery: Delivery) {
    if let Err(error) = delivery.settle(Settlement::Release).await {
        tracing::debug!(%error, "a dead letter was not released by hand");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of the first eight pages of a replay whose letters all have so many bytes.
    fn pages(bytes: usize) -> Vec<u16> {
        let (first, _) = PAGES;
        let next = |page: &u16| Some(next_page(*page, std::iter::repeat_n(bytes, (*page).into())));
        std::iter::successors(Some(first), next).take(8).collect()
    }

    #[test]
    fn broker_that_is_away_is_no_fault_of_the_letter() {
        let replayed = |error| not_replayed(&"7".into(), "emails", error);
        let waited = std::time::Duration::from_secs(30);

        let away = replayed(PublishError::Unavailable { waited, source: None });
        let full = replayed(PublishError::QueueFull { routing_key: "emails".to_owned() });

        assert_eq!((away.kind(), full.kind()), (ErrorKind::Connection, ErrorKind::Topology));
        assert!(away.to_string().contains("the broker is away"), "{away}");
        assert!(!full.to_string().contains("away"), "{full}");
    }

    #[test]
    fn pages_of_small_letters_grow() {
        assert_eq!(pages(100), [16, 32, 64, 128, 256, 512, 1024, 1024]);
        assert_eq!(pages(0), pages(100));
    }

    #[test]
    fn pages_of_large_letters_stay_small() {
        assert_eq!(pages(64 * 1024), [16, 32, 64, 64, 64, 64, 64, 64]);
        assert_eq!(pages(1024 * 1024), [16, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(pages(16 * 1024 * 1024), [16, 1, 1, 1, 1, 1, 1, 1]);
    }
}
