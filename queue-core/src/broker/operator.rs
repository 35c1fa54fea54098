//! The trait by which operators look into queues: their depth and their messages, and by which they empty or delete them. The
//! seam for `admin`; jobs do not pass through here.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;

use super::delivery::Delivery;
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};

/// The operations of an operator, a person or a tool, on a broker. Returned by
/// [`Client::operator`](crate::client::Client::operator), and implemented beside [`Broker`](super::Broker) by a broker that can be looked into.
///
/// ```
/// use leveret::Client;
/// use leveret::broker::{Envelope, Publish};
/// use leveret::topology::{QueueDecl, Topology};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("memory:").await?;
/// client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
/// client.broker().publish(Publish::to_queue("emails", Envelope::new("{}"))).await?;
///
/// let operator = client.operator()?;
/// assert_eq!(operator.inspect("emails").await?.ready, 1);
/// let mut walk = operator.walk("emails").await?;
/// for found in walk.next(100).await? {
///     println!("{}", found.envelope.id);
/// }
/// walk.end().await;
/// assert_eq!(operator.purge("emails").await?, 1);
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Operator: fmt::Debug + Send + Sync {
    /// The optional abilities of this broker. The default is none.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// The names of all queues in alphabetical order, without exclusive ones, which only their own client may use. The list is
    /// that of the broker and holds other programs' queues, too; on RabbitMQ those of the vhost.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the broker cannot list them, see
    /// [`lists_queues`](Abilities::lists_queues).
    async fn queues(&self) -> Result<Vec<String>> {
        let words = "this broker cannot list its queues: name the queue that you ask about";
        Err(Error::new(ErrorKind::Unsupported, words))
    }

    /// Counts the messages and consumers of a queue.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it does not exist.
    async fn inspect(&self, queue: &str) -> Result<QueueStats>;

    /// Drops all messages that are ready in a queue, and returns their number.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it does not exist.
    async fn purge(&self, queue: &str) -> Result<u64>;

    /// Deletes a queue with all its messages, and forgets that it was declared. A missing queue is no error.
    ///
    /// # Errors
    /// If the broker refuses.
    async fn delete(&self, queue: &str) -> Result<()>;

    /// The messages for a queue that are not due yet, delayed jobs and retries, by the moment that they are due: the next
    /// `count` behind a mark at most, and fewer where they are large. None at all is the end. Looking takes nothing.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the broker cannot show them, see
    /// [`shows_delayed`](Abilities::shows_delayed). [`NotFound`](ErrorKind::NotFound) if the queue does not exist.
    async fn delayed(&self, queue: &str, after: Option<Mark>, count: u16) -> Result<Vec<FoundDelayed>> {
        let (_, _) = (after, count);
        let words = format!("this broker cannot show what is delayed for queue `{queue}`");
        Err(Error::new(ErrorKind::Unsupported, words))
    }

    /// Begins a walk through the messages that are ready in a queue. To walk changes nothing: what the walk passes is in the
    /// queue, in its place, when the walk has ended. Where only a consumer sees what a queue holds (RabbitMQ), the walk
    /// holds what it has passed until then, and others do not get it.
    ///
    /// RabbitMQ keeps the order for a walk of up to thirty steps. After more of them, messages may come back in another
    /// order; none is lost.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the queue does not exist; another one if it may not be used.
    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>>;
}

/// A walk through the messages of one queue, in the order of their delivery. Begun by [`Operator::walk`].
///
/// Dropped without [`end`](Self::end), it ends by itself and loses nothing, at an unknown moment.
#[async_trait]
pub trait Walk: fmt::Debug + Send {
    /// The next `count` messages at most; fewer where they are large, so that no page takes much memory. None at all is the
    /// end of the queue.
    ///
    /// Cancel safe in that nothing is lost; the walk cannot go on from there.
    ///
    /// # Errors
    /// If the queue has gone, or the broker has; what the walk held goes back to the queue.
    async fn next(&mut self, count: u16) -> Result<Vec<Found>>;

    /// The place of the walk: behind the messages that it has passed. `None` while it has passed none.
    fn mark(&self) -> Option<Mark>;

    /// Goes to where an earlier walk through the same queue was. Call it before anything else. What was delivered, or came
    /// back, in between is no matter where the broker knows its messages by number; on RabbitMQ, a mark is a count of
    /// messages from the head of the queue, which are passed once more.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    async fn go_to(&mut self, mark: Mark) -> Result<()>;

    /// Takes a found message out of the queue, so that no other consumer gets it. Settle the delivery before the walk ends. `None` if
    /// another consumer or operator was quicker.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    async fn take(&mut self, found: Found) -> Result<Option<Delivery>>;

    /// Ends the walk, and returns when everything that it passed is in its queue again, for others to find.
    async fn end(self: Box<Self>);
}

/// The place of a message in a walk. Only that walk can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

/// A point in a queue between two messages, which outlives its walk. Only the queue's broker can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The level of priority, or the moment that it is due.
    pub level: u64,
    /// The place in that level.
    pub place: u64,
}

/// A message that is not due yet.
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundDelayed {
    /// Behind it, for [`Operator::delayed`].
    pub mark: Mark,
    /// When it is due.
    pub due: SystemTime,
    /// The message.
    pub envelope: Envelope,
}

impl FoundDelayed {
    /// A message that is due at a moment.
    pub fn new(mark: Mark, due: SystemTime, envelope: Envelope) -> Self {
        Self { mark, due, envelope }
    }
}

/// A message that a walk came by.
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    /// Where it is, for [`Walk::take`].
    pub place: Place,
    /// The message.
    pub envelope: Envelope,
}

impl Found {
    /// A message at a place.
    pub fn new(place: Place, mut envelope: Envelope) -> Self {
        // As for a delivery: some AMQP clients write the property `type` always, and leave it empty.
        envelope.task = envelope.task.filter(|task| !task.is_empty());
        Self { place, envelope }
    }
}

/// The optional abilities of a broker. Returned by [`Operator::abilities`], so that a tool offers only what works.
///
/// | | `memory:`, `sqlite:` | RabbitMQ |
/// |---|---|---|
/// | [`lists_queues`](Self::lists_queues) | yes | with the management API |
/// | [`counts_unsettled`](Self::counts_unsettled) | yes | no |
/// | [`counts_delayed`](Self::counts_delayed) | yes | no |
/// | [`shows_delayed`](Self::shows_delayed) | yes | no |
/// | [`looks_for_free`](Self::looks_for_free) | yes | no |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools, reason = "each ability is there or not by itself")]
pub struct Abilities {
    /// [`Operator::queues`] lists the queues.
    pub lists_queues: bool,
    /// [`QueueStats::unsettled`] is counted.
    pub counts_unsettled: bool,
    /// [`QueueStats::delayed`] is counted.
    pub counts_delayed: bool,
    /// [`Operator::delayed`] shows the messages that are not due yet.
    pub shows_delayed: bool,
    /// A walk takes nothing: consumers get what it passes meanwhile, and no message is counted as delivered. Without this, a
    /// walk holds what it has passed until it ends, and may cost each message a delivery.
    pub looks_for_free: bool,
}

impl Abilities {
    /// The abilities of a broker that keeps its queues itself.
    #[cfg(any(feature = "memory", feature = "sqlite-system"))]
    pub(crate) const EMBEDDED: Self = Self {
        lists_queues: true,
        counts_unsettled: true,
        counts_delayed: true,
        shows_delayed: true,
        looks_for_free: true,
    };
}

/// The counts of a queue. Returned by [`Client::depth`](crate::client::Client::depth) and
/// [`Admin::depth`](crate::admin::Admin::depth).
///
/// ```
/// # use leveret::Client;
/// # async fn f(client: Client) -> leveret::Result<()> {
/// let stats = client.admin().depth("emails").await?;
/// println!("{} ready, {:?} running, {} consumers", stats.ready, stats.unsettled, stats.consumers);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Messages that are delivered and not yet settled; `None` on RabbitMQ, which does not count them.
    pub unsettled: Option<u64>,
    /// Messages for this queue that are not due yet, delayed jobs and retries; `None` on RabbitMQ, which does not count them.
    pub delayed: Option<u64>,
    /// Consumers.
    pub consumers: u64,
}

impl QueueStats {
    /// The counts of a broker that does not count delayed messages.
    pub fn new(ready: u64, unsettled: Option<u64>, consumers: u64) -> Self {
        Self { ready, unsettled, delayed: None, consumers }
    }

    /// Adds the number of messages that are not due yet.
    #[must_use]
    pub fn delayed(mut self, delayed: u64) -> Self {
        self.delayed = Some(delayed);
        self
    }
}
