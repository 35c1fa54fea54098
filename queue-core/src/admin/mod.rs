//! Looks into queues and acts on what is there: depth, dead letters, replay. For operators and their tools; a
//! job's own way does not come through here.
//!
//! A look and a replay walk through a queue ([`Walk`]); `letter` is what they find there, `replay` what becomes of it.

use crate::broker::{QueueStats, Walk};
use crate::client::Client;
use crate::error::Result;
use crate::task::Task;

pub use letter::DeadLetter;
use replay::Replay;

mod letter;
mod replay;

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
///
/// # What a look costs
/// Nothing on `memory:` and `sqlite:`. RabbitMQ shows a queue only to a consumer: the letters that a look shows are held for its
/// duration, and given back. RabbitMQ 4.3 does not count that. Older versions count each time a letter comes back to a quorum
/// queue, and drop it when it has come back more often than the queue's delivery limit: 1,000,000 for a dead-letter queue that
/// Leveret declares, 20 on RabbitMQ 4.0 to 4.2 for one that another program declares without saying otherwise, and less
/// where a policy says so, which AMQP does not show. So a letter that has come back ten times is not given back: a copy
/// takes its place, confirmed before the letter goes, with the same id and the same words. It stands at the end of the queue, and
/// its time to live begins anew. A delivery limit below ten can be neither seen nor survived: do not set one on a queue of
/// dead letters.
///
/// While one operator looks, another one waits for a moment, and then sees the same. An operator of another namespace, and any
/// other consumer, sees what is not held.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
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
        self.client.operator()?.inspect(queue).await
    }

    /// The oldest `limit` dead letters of a dead-letter queue, such as `emails.dead`. They stay where they are; see
    /// [what a look costs](Self#what-a-look-costs).
    ///
    /// # Errors
    /// If the queue does not exist or may not be consumed, or the broker goes away meanwhile.
    pub async fn dead_letters(&self, queue: &str, limit: u16) -> Result<Vec<DeadLetter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut walk = self.walk(queue).await?;
        let letters = letters(&mut *walk, limit).await;
        walk.end().await;
        letters
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

    /// Puts dead letters that `choose` picks back into the queue they failed in, the oldest `limit` of them, and says how
    /// many. A replayed job is the same job on its first attempt again: it keeps its id, so that a handler which
    /// deduplicates by the id still does, and the header `q-replays` counts how often it has been replayed. Letters that
    /// `choose` leaves do not count, however many they are.
    ///
    /// From `leveret.unroutable` a delayed job goes to the queue that it was for, once that is back.
    ///
    /// Each job is confirmed in its queue before its dead letter is taken away: a crash in between leaves both, with one
    /// id.
    ///
    /// # Errors
    /// If the queue does not exist, or at the first letter whose queue is unknown or takes no jobs; that one and
    /// those behind it stay. The error says how many were replayed before.
    pub async fn replay(
        &self,
        queue: &str,
        limit: u16,
        choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize> {
        let mut walk = self.walk(queue).await?;
        let replay = Replay::new(&**self.client.broker(), queue);
        let replayed = replay.run(&mut *walk, limit.into(), choose).await;
        walk.end().await;
        replayed
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.client.operator()?.walk(queue).await
    }
}

/// The next `limit` letters of a walk, whose pages may be shorter.
async fn letters(walk: &mut dyn Walk, limit: u16) -> Result<Vec<DeadLetter>> {
    let (mut letters, mut left) = (Vec::new(), limit);
    while left > 0 {
        let found = walk.next(left).await?;
        if found.is_empty() {
            break;
        }
        letters.extend(found.iter().map(|found| DeadLetter::new(&found.envelope)));
        left = left.saturating_sub(u16::try_from(found.len()).unwrap_or(u16::MAX));
    }
    Ok(letters)
}
