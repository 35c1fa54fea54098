//! What a broker must do, and the types it does it with. The implementations stand beside this file, and one
//! contract suite (`tests/brokers`) holds them all to the same behaviour.
//!
//! A broker speaks AMQP's terms: exchanges, queues, bindings, messages. It knows no tasks and decides nothing
//! about a job; it carries out a [`Settlement`].

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::error::{PublishError, Result, SettleError};
use crate::settlement::Settlement;
use crate::topology::{Name, Namespace, Route, Topology};

#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
pub(crate) mod amqp;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
mod missing;
mod operator;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub(crate) mod reply;
#[cfg(feature = "sqlite-system")]
pub mod sqlite;
#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
mod tries;

pub use operator::{Found, Operator, Place, Walk};
pub use reply::DIRECT_REPLY_TO;

/// A message broker. Object safe; shared by clients and workers behind an `Arc`.
///
/// All methods may be called at the same time from any task, and are cancel safe in that a dropped future leaves
/// the broker usable; whether a dropped `publish` happened is then unknown.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// What it is, and how it is at this moment.
    fn info(&self) -> BrokerInfo;

    /// Declares what is missing and checks what is there. Remembered: a broker that comes back without it, or a
    /// new connection, is given it again.
    ///
    /// # Errors
    /// [`Topology`](crate::error::ErrorKind::Topology) where a queue or exchange exists with other settings, or a
    /// passive one does not exist. The message names queue, argument and remedy.
    /// [`Connection`](crate::error::ErrorKind::Connection) where the broker was away for the whole publish timeout.
    async fn declare(&self, topology: &Topology) -> Result<()>;

    /// Publishes one message. `Ok` means that the broker has it, and, if `mandatory`, that it reached a queue.
    ///
    /// # Errors
    /// See [`PublishError`]; only [`Unconfirmed`](PublishError::Unconfirmed) leaves open whether it was kept.
    async fn publish(&self, publish: Publish) -> Result<(), PublishError>;

    /// Publishes a request whose sender waits for the reply by [`DIRECT_REPLY_TO`], and meanwhile wants to hear only what
    /// keeps it from coming. `Ok` means that the broker has the request; a broker that would have to ask for that need
    /// not return at all while a reply may come. So this is raced against the reply, and dropped when that is there.
    ///
    /// On RabbitMQ it is sent without a confirm, to wait for which would cost a call a tenth of its time. A queue that is
    /// full refuses it unheard: where that may be, [publish](Self::publish) the request.
    ///
    /// # Errors
    /// As `publish`.
    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        self.publish(publish).await
    }

    /// Publishes many, pipelined; the results stand in the order of the messages.
    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>>;

    /// Begins to consume a queue. The consumer outlives connections: it goes on, with the same prefetch, after
    /// the broker has been away. The replies to this client's own requests are consumed by the name
    /// [`DIRECT_REPLY_TO`], which says how they differ.
    ///
    /// # Errors
    /// If the queue does not exist or may not be consumed.
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer>;

    /// How deep a queue is.
    ///
    /// # Errors
    /// If it does not exist.
    async fn inspect(&self, queue: &str) -> Result<QueueStats>;

    /// Drops all messages that are ready in a queue, and says how many there were.
    ///
    /// # Errors
    /// If it does not exist.
    async fn purge(&self, queue: &str) -> Result<u64>;

    /// Deletes a queue with all its messages, and forgets that it was declared. A missing queue is no error.
    ///
    /// # Errors
    /// If the broker refuses.
    async fn delete(&self, queue: &str) -> Result<()>;

    /// What an operator may ask, such as a look into a queue. `None`, which is the default, for a broker that serves jobs
    /// and shows nothing: [`Admin`](crate::admin::Admin) says so.
    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    /// Ends consumers, flushes what was published, and closes connections, within ten seconds at most.
    /// Afterwards every call fails with `Closed`. Closing twice is fine.
    async fn close(&self);
}

/// What a broker is, and how it is at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// `memory`, `sqlite` or `rabbitmq` (OpenTelemetry's `messaging.system`).
    pub system: &'static str,
    /// The server's version, where there is a server and it has been reached.
    pub version: Option<String>,
    /// Whether it can be talked to.
    pub health: Health,
}

impl BrokerInfo {
    /// A healthy broker of no stated version.
    pub fn new(system: &'static str) -> Self {
        Self { system, version: None, health: Health::Up }
    }
}

/// Whether a broker can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It can.
    Up,
    /// It is there, but takes no messages, for the reason it gave (memory or disk alarm).
    Blocked(String),
    /// It is away; what the last attempt to reach it said.
    Down(String),
}

/// A URL with a login, which its `Debug` does not show.
#[derive(Clone)]
pub struct ManagementUrl(String);

impl ManagementUrl {
    /// Takes a URL as it is; it is read when a broker is opened that needs it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL, login and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManagementUrl(..)")
    }
}

/// What every broker is told when it is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The prefix of Leveret's own names.
    pub namespace: Namespace,
    /// How long a publish waits for a broker that is away, blocked, or silent, and a declaration for one that is
    /// away.
    pub publish_timeout: Duration,
    /// Whether opening the broker waits until it is there, however long that takes.
    pub wait_for_broker: bool,
    /// Where RabbitMQ's management API is, if it may be used.
    pub management: Option<ManagementUrl>,
    /// Who connects, for the broker's own lists.
    pub name: String,
    /// The time. Only the memory broker takes one that a test moves. RabbitMQ measures delays by its own clock, and asks this
    /// one how far off `not_before` is.
    pub clock: Clock,
}

impl Default for Settings {
    /// Namespace `leveret`, 30 s, not waiting to open, the program's name and process id, the system's clock.
    fn default() -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        Self {
            namespace: Namespace::default(),
            publish_timeout: Duration::from_secs(30),
            wait_for_broker: false,
            management: None,
            name: format!("{}:{}", program.unwrap_or("leveret"), std::process::id()),
            clock: Clock::system(),
        }
    }
}

/// A message to publish.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Publish {
    /// Where to. The default exchange (empty) routes to the queue named by the key.
    pub route: Route,
    /// The message.
    pub envelope: Envelope,
    /// Whether it is an error that no queue takes it.
    pub mandatory: bool,
    /// Not to be delivered before this moment. Only on the default exchange.
    pub not_before: Option<std::time::SystemTime>,
}

impl Publish {
    /// A mandatory message to a queue, by the default exchange.
    pub fn to_queue(queue: impl Into<Name>, envelope: Envelope) -> Self {
        let route = Route { exchange: Name::Borrowed(""), routing_key: queue.into() };
        Self { route, envelope, mandatory: true, not_before: None }
    }

    /// A message to an exchange, where nobody may be listening. By the default exchange (empty) it goes to a queue and is
    /// mandatory, unless it is a direct reply, whose caller may have gone.
    pub fn to_exchange(exchange: impl Into<Name>, routing_key: impl Into<Name>, envelope: Envelope) -> Self {
        let route = Route { exchange: exchange.into(), routing_key: routing_key.into() };
        let mandatory = route.exchange.is_empty() && !reply::is_address(&route.routing_key);
        Self { route, envelope, mandatory, not_before: None }
    }
}

/// How to consume a queue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumeOptions {
    /// The queue.
    pub queue: Name,
    /// How many unsettled deliveries this consumer holds at most; at least 1.
    pub prefetch: u16,
    /// Where [`Settlement::DeadLetter`] publishes; `None` drops, with a log line.
    pub dead_letter: Option<Route>,
    /// Who consumes, for the broker's own lists (AMQP's consumer tag begins with it).
    pub name: Option<String>,
}

impl ConsumeOptions {
    /// Prefetch 1, dead letters dropped.
    pub fn new(queue: impl Into<Name>) -> Self {
        Self { queue: queue.into(), prefetch: 1, dead_letter: None, name: None }
    }

    /// How many unsettled deliveries at most.
    #[must_use]
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }

    /// Where dead letters go.
    #[must_use]
    pub fn dead_letter(mut self, route: Option<Route>) -> Self {
        self.dead_letter = route;
        self
    }
}

/// The deliveries of one queue. Made by a broker's [`ConsumerHandle`].
///
/// Dropping it stops the consumer; deliveries that nobody took go back to the queue. [`finish`](Self::finish) it where
/// the process may end next.
#[derive(Debug)]
pub struct Consumer {
    fed: mpsc::UnboundedReceiver<Fed>,
    /// Comes before what else is fed.
    source: Option<Source>,
    stop: CancellationToken,
    /// All that will be settled is.
    settled: CancellationToken,
    /// Ends when the broker's end is gone. Nothing is ever sent.
    flushed: mpsc::Receiver<Infallible>,
}

/// The broker's end of a [`Consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    fed: mpsc::UnboundedSender<Fed>,
    stop: CancellationToken,
    settled: CancellationToken,
    unflushed: mpsc::Sender<Infallible>,
}

/// What is left of a [`ConsumerHandle`] when there is nothing more to hand over: the duty to see the settlements
/// through. Drop it when the broker has them.
#[derive(Debug)]
pub struct Unflushed {
    settled: CancellationToken,
    _unflushed: mpsc::Sender<Infallible>,
}

/// What a consumer is given.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a box would be one allocation more for each delivery")]
enum Fed {
    Delivery(Result<Delivery>),
    #[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "other brokers hand over each delivery"))]
    Source(Source),
}

/// Deliveries that the consumer's own task fetches.
struct Source(Pin<Box<dyn Stream<Item = Delivery> + Send + Sync>>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Consumer {
    /// A consumer and the end that feeds it. The channel is unbounded because prefetch bounds it.
    pub fn channel() -> (ConsumerHandle, Self) {
        let (sender, fed) = mpsc::unbounded_channel();
        let (unflushed, flushed) = mpsc::channel(1);
        let (stop, settled) = (CancellationToken::new(), CancellationToken::new());
        let handle = ConsumerHandle { fed: sender, stop: stop.clone(), settled: settled.clone(), unflushed };
        (handle, Self { fed, source: None, stop, settled, flushed })
    }

    /// The next delivery. `None` when the consumer was stopped or the broker closed; an error is the last item
    /// and says why consuming cannot go on. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// A delivery that is already here.
    pub fn try_next(&mut self) -> Option<Result<Delivery>> {
        // Or tokio would say that nothing is here to a task whose turn has been long.
        let next = std::pin::pin!(tokio::task::unconstrained(self.next()));
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(delivery) => delivery,
            Poll::Pending => None,
        }
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        loop {
            if let Some(Source(source)) = &mut self.source {
                match ready!(source.as_mut().poll_next(cx)) {
                    Some(delivery) => return Poll::Ready(Some(Ok(delivery))),
                    None => self.source = None,
                }
            }
            match ready!(self.fed.poll_recv(cx)) {
                Some(Fed::Delivery(delivery)) => return Poll::Ready(Some(delivery)),
                Some(Fed::Source(source)) => self.source = Some(source),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Asks the broker to send nothing more. What is already here can still be taken by [`next`](Self::next),
    /// which then ends with `None`.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops, and waits until the broker has every settlement made so far: an ack that is still on its way when the
    /// process ends is an ack that never was. Deliveries that nobody took go back to the queue.
    ///
    /// Waits as long as the broker does not answer, so give it a timeout. Not cancel safe, but dropping it is no more
    /// than dropping the consumer.
    pub async fn finish(mut self) {
        self.stop();
        while let Some(untaken) = self.next().await {
            drop(untaken);
        }
        self.settled.cancel();
        while self.flushed.recv().await.is_some() {}
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.settled.cancel();
    }
}

impl ConsumerHandle {
    /// Hands a delivery over. A delivery that nobody will take any more is dropped, and so released.
    pub fn send(&self, delivery: Result<Delivery>) {
        let _ = self.fed.send(Fed::Delivery(delivery));
    }

    /// Has the consumer take its deliveries from `source` by itself, until that ends: a task in between would be
    /// woken for each.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn attach(&self, source: impl Stream<Item = Delivery> + Send + Sync + 'static) {
        // One that nobody will take any more is dropped, as above.
        let _ = self.fed.send(Fed::Source(Source(Box::pin(source))));
    }

    /// As [`send`](Self::send), for a broker that must not release a delivery here and now because it holds a lock.
    ///
    /// # Errors
    /// Gives back a delivery that nobody will take any more.
    pub fn offer(&self, delivery: Delivery) -> Result<(), Box<Delivery>> {
        self.fed.send(Fed::Delivery(Ok(delivery))).map_err(|refused| match refused.0 {
            Fed::Delivery(Ok(delivery)) => Box::new(delivery),
            _ => unreachable!("what comes back is what was sent: a delivery"),
        })
    }

    /// Waits until the consumer is to be sent nothing more. Cancel safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The same without the handle: while there is one, the consumer does not hear that nothing more will come.
    #[cfg(any(feature = "memory", feature = "sqlite-system"))]
    pub(crate) fn until_stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Whether the consumer is to be sent nothing more.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends the deliveries, for a broker whose settlements take time to arrive. One that has them at once drops the
    /// handle. Other clones of it keep the deliveries open.
    pub fn end(self) -> Unflushed {
        Unflushed { settled: self.settled, _unflushed: self.unflushed }
    }
}

impl Unflushed {
    /// Waits until all that will be settled is. Cancel safe.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }
}

/// An envelope handed to a worker and not yet settled. Dropped without a settlement, it is released.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The job.
    pub envelope: Envelope,
    /// The queue it came from.
    pub queue: Name,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether it has been delivered before and not settled.
    pub redelivered: bool,
    settler: Box<dyn Settler>,
}

impl Delivery {
    /// A delivery that `settler` settles.
    pub fn new(mut envelope: Envelope, queue: Name, settler: Box<dyn Settler>) -> Self {
        // Some AMQP clients write the property `type` always, and leave it empty.
        envelope.task = envelope.task.filter(|task| !task.is_empty());
        let routing_key = String::new();
        Self { envelope, queue, exchange: String::new(), routing_key, redelivered: false, settler }
    }

    /// Carries the settlement out. When it returns `Ok`, a retry or dead letter is confirmed by the broker, and
    /// only then was the original acked.
    ///
    /// Not cancel safe: a dropped future leaves the delivery released or settled, whichever came first.
    ///
    /// # Errors
    /// If it did not reach the broker; the broker then delivers the job again.
    pub async fn settle(self, settlement: Settlement) -> Result<(), SettleError> {
        self.settler.settle(self.envelope, settlement).await
    }

    /// Says that the broker has taken the delivery back, or is about to: its connection or channel is gone, its queue is
    /// deleted, the client is closed, or another program has taken the job over. The broker delivers the job again, so
    /// a job that has not begun must not begin: drop the delivery instead.
    ///
    /// Neither waits nor asks a server, so `false` is no promise.
    ///
    /// ```
    /// use queue_core::broker::{ConsumeOptions, Publish};
    /// use queue_core::client::Client;
    /// use queue_core::envelope::Envelope;
    /// use queue_core::topology::{QueueDecl, Topology};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("memory:").await?;
    /// client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
    /// client.broker().publish(Publish::to_queue("emails", Envelope::new("{}"))).await?;
    /// let mut consumer = client.broker().consume(ConsumeOptions::new("emails")).await?;
    /// let delivery = consumer.next().await.expect("the client is open")?;
    /// assert!(!delivery.is_lost());
    ///
    /// client.close().await;
    /// assert!(delivery.is_lost());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.settler.is_lost()
    }

    /// Whether the broker has taken it back, so that settling it does nothing.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn is_gone(&self) -> bool {
        self.settler.is_gone()
    }
}

/// Settles one delivery. Dropped without a call, it gives the delivery back to its queue.
#[async_trait]
pub trait Settler: fmt::Debug + Send + Sync {
    /// See [`Delivery::settle`].
    async fn settle(self: Box<Self>, envelope: Envelope, settlement: Settlement) -> Result<(), SettleError>;

    /// See [`Delivery::is_lost`]. Asked before each job, so it must be as fast as reading an atomic.
    fn is_lost(&self) -> bool {
        false
    }

    /// Whether a settlement would come too late even for a job that runs: the broker delivers it again. A delivery may be
    /// [lost](Self::is_lost) before that, where only what has not begun goes back.
    fn is_gone(&self) -> bool {
        self.is_lost()
    }
}

/// How deep a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Messages delivered and not yet settled, where the broker tells.
    pub unsettled: Option<u64>,
    /// Messages that are for this queue and not due yet, delayed jobs and retries, where the broker tells.
    pub delayed: Option<u64>,
    /// Consumers.
    pub consumers: u64,
}

impl QueueStats {
    /// Counts as a broker reports them that does not tell what is delayed.
    pub fn new(ready: u64, unsettled: Option<u64>, consumers: u64) -> Self {
        Self { ready, unsettled, delayed: None, consumers }
    }

    /// How many messages for this queue are not due yet.
    #[must_use]
    pub fn delayed(mut self, delayed: u64) -> Self {
        self.delayed = Some(delayed);
        self
    }
}

/// The error of every call on a closed broker.
pub(crate) fn closed() -> crate::error::Error {
    crate::error::Error::new(crate::error::ErrorKind::Closed, "the client is closed")
}
