//! Looks into queues and acts on what is there: depth, messages, dead letters, replay; and lists who works. For operators and
//! their tools; a job's own way does not come through here.
//!
//! All walk through a queue ([`Walk`]). `browse` shows a `page` of `message`s; `letter` is a dead letter, which `replay` and
//! `discard` act on, and `interrupted` is their error.

use crate::broker::{QueueStats, Walk};
use crate::client::Client;
use crate::error::Result;
use crate::store::{Member, MemberKind};
use crate::task::Task;

pub use interrupted::Interrupted;
pub use letter::DeadLetter;
pub use message::{Message, MessageState};
pub use page::{Browsed, Page, PageToken};
use replay::Replay;

mod browse;
mod discard;
mod interrupted;
mod letter;
mod message;
mod page;
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

    /// Shows a page of a queue: first the messages that are ready, or dead letters in a dead-letter queue, in the order of their
    /// delivery, then the delayed ones by the moment that they are due, where the broker
    /// [shows them](crate::broker::Abilities::shows_delayed). They stay where they are; see
    /// [what a look costs](Self#what-a-look-costs). Jobs that are being worked on are not shown.
    ///
    /// On `memory:` and `sqlite:` the next page begins where this one ended, whatever happened in between. On RabbitMQ it
    /// counts from the head of the queue, and passes what stands before it once more: what was delivered in between moves
    /// the others up, and the page begins as much further on. Looking leaves the messages in their order, with two
    /// exceptions on RabbitMQ, after which a page may show a message again or pass one over: before 4.3, one that has come
    /// back to a quorum queue ten times moves to the end, as above, and each page costs those before it a return; and from
    /// about 30,000 messages before or in a page, which take more than thirty consumers, they may come back in another order.
    ///
    /// ```
    /// use queue_core::admin::Page;
    /// # use queue_core::broker::Publish;
    /// # use queue_core::client::Client;
    /// # use queue_core::envelope::Envelope;
    /// # use queue_core::topology::{QueueDecl, Topology};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> queue_core::error::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
    /// # client.broker().publish(Publish::to_queue("emails", Envelope::new("{}"))).await?;
    /// let admin = client.admin();
    /// let mut page = Page::new(100);
    /// loop {
    ///     let browsed = admin.browse("emails", page).await?;
    ///     for message in &browsed.messages {
    ///         println!("{} {:?}, attempt {}", message.id, message.state, message.attempt);
    ///     }
    ///     // As text, the token goes into the link to the next page.
    ///     let Some(next) = browsed.next else { break };
    ///     page = Page::new(100).after(next);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if the queue does not exist, [`Config`](crate::error::ErrorKind::Config) if
    /// the page is of another queue; if the queue may not be consumed, or the broker goes away meanwhile.
    pub async fn browse(&self, queue: &str, page: Page) -> Result<Browsed> {
        browse::browse(self.client.operator()?, queue, page).await
    }

    /// Drops all messages that are ready in a queue, dead letters or jobs, and says how many there were.
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if the queue does not exist.
    pub async fn purge(&self, queue: &str) -> Result<u64> {
        self.client.operator()?.purge(queue).await
    }

    /// The oldest `limit` dead letters of a dead-letter queue, such as `emails.dead`. They stay where they are; see
    /// [what a look costs](Self#what-a-look-costs).
    ///
    /// # Errors
    /// If the queue does not exist or may not be consumed, or the broker goes away meanwhile.
    pub async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>> {
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
    pub async fn dead_letters_of<T: Task>(&self, limit: usize) -> Result<Vec<DeadLetter>> {
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
    /// [`Interrupted`], which says how many were replayed before: if the queue does not exist, the broker goes away, or at the
    /// first letter whose queue is unknown or takes no jobs; that one and those behind it stay.
    pub async fn replay(
        &self,
        queue: &str,
        limit: usize,
        choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize, Interrupted> {
        let mut walk = self.walk(queue).await?;
        let replay = Replay::new(&**self.client.broker(), queue);
        let replayed = replay.run(&mut *walk, limit, choose).await;
        walk.end().await;
        replayed
    }

    /// Like [`replay`](Self::replay), for the jobs of one task in the dead-letter queue of its queue, also those of the names that
    /// it had before. Letters of other tasks in that queue stay. Declares the queue first if needed; with `dlx = none` there is
    /// nothing to replay.
    ///
    /// ```no_run
    /// # use queue_core::task::Task;
    /// # async fn f<SendEmail: Task>(client: queue_core::client::Client) -> queue_core::error::Result<()> {
    /// let replayed = client.admin().replay_of::<SendEmail>(1000, |letter| letter.replays == 0).await?;
    /// println!("{replayed} mails are sent again");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As `replay`, and if the queue cannot be declared.
    pub async fn replay_of<T: Task>(
        &self,
        limit: usize,
        mut choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize, Interrupted> {
        let Some(queue) = T::queue().dead_queue() else { return Ok(0) };
        self.client.declare_queue(T::queue()).await?;
        let options = T::options();
        let is_its = |letter: &DeadLetter| match letter.task.as_deref() {
            None => options.is_default,
            Some(task) => task == T::NAME || options.aliases.contains(&task),
        };
        self.replay(&queue, limit, |letter| is_its(letter) && choose(letter)).await
    }

    /// Throws dead letters away that `choose` picks, the oldest `limit` of them, and says how many. They cannot be had back.
    /// [`purge`](Self::purge) throws all away at once. It does not look whether a message is a dead letter: in a work queue it
    /// throws jobs away.
    ///
    /// ```no_run
    /// # async fn f(client: queue_core::client::Client) -> queue_core::error::Result<()> {
    /// let is_hopeless = |letter: &queue_core::admin::DeadLetter| letter.kind.as_deref() == Some("bad-message");
    /// let discarded = client.admin().discard("emails.dead", 1000, is_hopeless).await?;
    /// println!("{discarded} letters were thrown away");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Interrupted`], which says how many were discarded before: if the queue does not exist, or the broker goes away.
    pub async fn discard(
        &self,
        queue: &str,
        limit: usize,
        choose: impl FnMut(&DeadLetter) -> bool + Send,
    ) -> Result<usize, Interrupted> {
        let mut walk = self.walk(queue).await?;
        let discarded = discard::discard(&mut *walk, limit, choose).await;
        walk.end().await;
        discarded
    }

    /// The workers of this broker: those at work, and for an hour those that were killed or stand still. A worker that ends in
    /// the orderly way is no longer listed. Each gives a sign of life every 5 s, with what it is doing at that moment; after 30 s
    /// without one, by the clock of this client, it [is gone](Member::is_gone).
    ///
    /// ```
    /// # async fn f(client: queue_core::client::Client) -> queue_core::error::Result<()> {
    /// for worker in client.admin().workers().await? {
    ///     let state = if worker.is_gone { "gone" } else { "alive" };
    ///     println!("{} ({state}) consumes {}, runs {} jobs", worker.name, worker.queues.join(", "), worker.busy);
    ///     for job in &worker.running {
    ///         println!("    {} {} since {:?}", job.task, job.id, job.since);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Those of `memory:name` are the workers of this process, those of `sqlite:jobs.db` the workers of all programs that use the
    /// file.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) where the broker has no store, as RabbitMQ; see
    /// [`Client::store`]. If the store cannot be read.
    pub async fn workers(&self) -> Result<Vec<Member>> {
        self.members(MemberKind::Worker).await
    }

    /// The clients of this broker on which no worker runs: web servers, tools and whatever else enqueues, publishes or calls.
    /// One is listed from its first heartbeat on, 5 s after it connected, until it is closed or dropped; otherwise as
    /// [`workers`](Self::workers). This client is among them from then on.
    ///
    /// # Errors
    /// As `workers`.
    pub async fn clients(&self) -> Result<Vec<Member>> {
        self.members(MemberKind::Client).await
    }

    async fn members(&self, kind: MemberKind) -> Result<Vec<Member>> {
        let members = self.client.store()?.registry().members().await?;
        let now = self.client.clock().now();
        // Entries are taken out by members: where the last one has died, they are all still there.
        let those = members.into_iter().filter(|member| member.kind == kind && !member.is_forgotten_at(now));
        Ok(those.map(|member| member.seen_at(now)).collect())
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.client.operator()?.walk(queue).await
    }
}

/// The next `limit` letters of a walk, whose pages may be shorter.
async fn letters(walk: &mut dyn Walk, limit: usize) -> Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    while letters.len() < limit {
        let left = u16::try_from(limit - letters.len()).unwrap_or(u16::MAX);
        let found = walk.next(left).await?;
        if found.is_empty() {
            break;
        }
        letters.extend(found.iter().map(|found| DeadLetter::new(&found.envelope)));
    }
    Ok(letters)
}
