//! Looks into queues and acts on their messages: depth, dead letters, replay; and lists workers and clients. For operators and
//! their tools; jobs do not pass through here.
//!
//! All operations walk through a queue ([`Walk`]). `browse` shows a `page` of `message`s; `letter` is a dead letter, which
//! `replay` and `discard` act on, and `interrupted` is their error.

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

/// Looks into queues and acts on their messages: counts them, shows dead letters, replays or discards them. Made by
/// [`Client::admin`].
///
/// ```
/// # use leveret::{Client, TaskError, TaskResult, Worker, task};
/// # #[task(queue = "emails")]
/// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
/// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
/// let admin = client.admin();
/// for letter in admin.dead_letters("emails.dead", 100).await? {
///     println!("{} after {} attempts: {}", letter.id, letter.attempts, letter.error.unwrap_or_default());
/// }
/// // The mail server is back: replay the jobs that it refused. Jobs that failed for good stay.
/// let replayed = admin.replay("emails.dead", 100, |letter| letter.kind.as_deref() == Some("failed")).await?;
/// println!("{replayed} jobs run again");
/// # Ok(()) }
/// ```
///
/// # What a look costs
/// A look costs nothing on `memory:` and `sqlite:`. RabbitMQ shows a queue only to a consumer: a look holds the letters that it
/// shows until it ends, and then gives them back. RabbitMQ 4.3 does not count such a return. Older versions count each return
/// to a quorum queue, and drop a letter that was returned more often than the queue's delivery limit: 1,000,000 for a
/// dead-letter queue that Leveret declares; 20 on RabbitMQ 4.0 to 4.2 for a queue that another program declares without a
/// limit; less where a policy says so, which AMQP does not show. So a letter that has been returned ten times is not given back
/// again. A copy with the same id and content takes its place; the copy is confirmed before the letter is removed. It stands at
/// the end of the queue, and its time to live begins anew. A delivery limit below ten cannot be seen in time: do not set one on
/// a queue of dead letters.
///
/// While one operator looks at a queue, a second one waits until the first has ended, and then sees the same. An operator of
/// another namespace, and any other consumer, sees only the messages that are not held.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// How many messages wait in a queue, and how many consumers it has.
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    /// let stats = client.admin().depth("emails.dead").await?;
    /// assert_eq!(stats.ready, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the queue does not exist.
    pub async fn depth(&self, queue: &str) -> Result<QueueStats> {
        self.client.operator()?.inspect(queue).await
    }

    /// Shows a page of a queue: first the messages that are ready, or dead letters in a dead-letter queue, in the order of their
    /// delivery, then the delayed ones by the moment that they are due, where the broker
    /// [shows them](crate::broker::Abilities::shows_delayed). The messages stay in the queue; see
    /// [what a look costs](Self#what-a-look-costs). Jobs that are running are not shown.
    ///
    /// On `memory:` and `sqlite:` the next page begins where this one ended, whatever happened in between. On RabbitMQ a page
    /// is counted from the head of the queue: if messages were delivered in between, the others move up, and the page skips as
    /// many. Looking keeps the messages in order, with two exceptions on RabbitMQ, after which a page may show a message twice
    /// or skip one. Before 4.3, a message that was returned to a quorum queue ten times moves to the end, as above, and each
    /// page costs the messages before it one return. From about 30,000 messages before or in a page, which take more than
    /// thirty consumers, messages may come back in another order.
    ///
    /// ```
    /// use leveret::admin::Page;
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    ///
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

    /// Drops all messages that are ready in a queue, dead letters or jobs, and returns their number.
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    /// assert_eq!(client.admin().purge("emails.dead").await?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if the queue does not exist.
    pub async fn purge(&self, queue: &str) -> Result<u64> {
        self.client.operator()?.purge(queue).await
    }

    /// The oldest `limit` dead letters of a dead-letter queue, such as `emails.dead`. They stay in the queue; see
    /// [what a look costs](Self#what-a-look-costs).
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    /// let letters = client.admin().dead_letters("emails.dead", 100).await?;
    /// assert_eq!(letters[0].error.as_deref(), Some("no mailbox nobody@example.com"));
    /// # Ok(()) }
    /// ```
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

    /// Like [`dead_letters`](Self::dead_letters), for the dead-letter queue of task `T`. Declares the queue first if needed. With
    /// `dlx = none` the result is empty.
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    /// let letters = client.admin().dead_letters_of::<SendEmail>(100).await?;
    /// assert_eq!(letters[0].task.as_deref(), Some("send_email"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the queue cannot be declared, or may not be consumed.
    pub async fn dead_letters_of<T: Task>(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let Some(queue) = T::queue().dead_queue() else { return Ok(Vec::new()) };
        self.client.declare_queue(T::queue()).await?;
        self.dead_letters(&queue, limit).await
    }

    /// Puts dead letters that `choose` picks back into the queue in which they failed, the oldest `limit` of them, and returns
    /// their number. A replayed job is the same job on its first attempt again: it keeps its id, so that a handler can still
    /// deduplicate by it, and the header `q-replays` counts its replays. Letters that `choose` rejects do not count towards
    /// `limit`.
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    /// // The mailbox exists now.
    /// let replayed = client.admin().replay("emails.dead", 100, |_| true).await?;
    /// assert_eq!(replayed, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// A delayed job in `leveret.unroutable` goes to the queue that it was meant for, once that queue exists again.
    ///
    /// Each job is confirmed in its queue before its dead letter is removed: a crash in between leaves both, with one id.
    ///
    /// # Errors
    /// [`Interrupted`], which says how many were replayed before: if the queue does not exist, the broker goes away, or at the
    /// first letter whose queue is unknown or refuses the job. That letter and those behind it stay.
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

    /// Like [`replay`](Self::replay), for the jobs of task `T` in its dead-letter queue, under its name or an alias. Letters of other
    /// tasks in that queue stay. Declares the queue first if needed. With `dlx = none` the result is 0.
    ///
    /// ```
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
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

    /// Deletes dead letters that `choose` picks, the oldest `limit` of them, and returns their number. They cannot be restored.
    /// [`purge`](Self::purge) deletes all at once. Neither checks that a message is a dead letter: in a work queue they delete
    /// jobs.
    ///
    /// ```
    /// use leveret::DeadLetter;
    /// # use leveret::{Client, TaskError, TaskResult, Worker, task};
    /// # #[task(queue = "emails")]
    /// # async fn send_email(to: String) -> TaskResult { Err(TaskError::permanent(format!("no mailbox {to}")).into()) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// # Worker::new(&client).task::<SendEmail>().run_until_idle().await?;
    ///
    /// let is_hopeless = |letter: &DeadLetter| letter.kind.as_deref() == Some("bad-message");
    /// let discarded = client.admin().discard("emails.dead", 1000, is_hopeless).await?;
    /// println!("{discarded} letters were deleted");
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

    /// The workers of this broker: those at work, and, for an hour, those that were killed or hang. A worker that stops normally
    /// is no longer listed. Each worker sends a heartbeat every 5 s, with the jobs that it runs at that moment; after 30 s without
    /// one, by the clock of this client, it [is gone](Member::is_gone).
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
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
    /// `memory:name` lists the workers of this process, `sqlite:jobs.db` those of all programs that use the file.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) on RabbitMQ, which has no store; see
    /// [`Client::store`]. If the store cannot be read.
    pub async fn workers(&self) -> Result<Vec<Member>> {
        self.members(MemberKind::Worker).await
    }

    /// The clients of this broker on which no worker runs: web servers, tools and other programs that enqueue, publish or call.
    /// A client is listed from its first heartbeat, 5 s after it connected, until it is closed or dropped; otherwise as
    /// [`workers`](Self::workers). The list includes this client.
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// for producer in client.admin().clients().await? {
    ///     println!("{} on {}, process {}", producer.name, producer.host, producer.process);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As `workers`.
    pub async fn clients(&self) -> Result<Vec<Member>> {
        self.members(MemberKind::Client).await
    }

    async fn members(&self, kind: MemberKind) -> Result<Vec<Member>> {
        let members = self.client.store()?.registry().members().await?;
        let now = self.client.clock().now();
        // Members remove old entries: where the last member has died, all entries are still there.
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
