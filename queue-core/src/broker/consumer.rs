//! Consuming a queue: the stream of its deliveries, and the broker's end of it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use crate::error::Result;
use crate::topology::{Name, QueueSpec, Route};

/// The options by which a queue is consumed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumeOptions {
    /// The queue.
    pub queue: Name,
    /// How many unsettled deliveries this consumer holds at most; at least 1.
    pub prefetch: u16,
    /// The exchange and key to which [`Settlement::DeadLetter`](crate::settlement::Settlement::DeadLetter) publishes; `None` drops, with a log line.
    pub dead_letter: Option<Route>,
    /// The consumer's name in the broker's own lists: AMQP's consumer tag begins with it.
    pub name: Option<String>,
    /// How long the broker waits for a delivery's settlement before it delivers the message again. `None` leaves that to the
    /// server's configuration. Quorum queues of RabbitMQ 4.3 and later take it from a consumer; elsewhere it has no effect. A classic queue of 4.3 refuses it,
    /// and is then consumed without it.
    /// See <https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout>.
    pub consumer_timeout: Option<Duration>,
    /// The queue that the jobs belong to, where they only wait in another one, as those do that [run
    /// alone](super::Broker::suspects_of): their retries go there, and their dead letters name it. `None` is the queue itself.
    pub home: Option<Name>,
    /// How often the holder of a message may be lost before it is set apart from the others; at least 1. What is given back in
    /// order does not count towards it. See [`QueueSpec::crash_limit`](crate::topology::QueueSpec::crash_limit).
    pub crash_limit: u32,
}

impl ConsumeOptions {
    /// Prefetch 1, dead letters dropped, crash limit 3.
    pub fn new(queue: impl Into<Name>) -> Self {
        Self {
            queue: queue.into(),
            prefetch: 1,
            dead_letter: None,
            name: None,
            consumer_timeout: None,
            home: None,
            crash_limit: QueueSpec::CRASH_LIMIT,
        }
    }

    /// Sets the largest number of unsettled deliveries.
    #[must_use]
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }

    /// Sets the exchange and key of dead letters.
    #[must_use]
    pub fn dead_letter(mut self, route: Option<Route>) -> Self {
        self.dead_letter = route;
        self
    }

    /// Sets how long the broker waits for a delivery's settlement, see [`consumer_timeout`](Self::consumer_timeout).
    #[must_use]
    pub fn consumer_timeout(mut self, timeout: Duration) -> Self {
        self.consumer_timeout = Some(timeout);
        self
    }

    /// Sets how often the holder of a message may be lost, see [`crash_limit`](Self::crash_limit).
    #[must_use]
    pub fn crash_limit(mut self, ends: u32) -> Self {
        self.crash_limit = ends.max(1);
        self
    }
}

/// The deliveries of one queue. Made by a broker's [`ConsumerHandle`].
///
/// Dropping it stops the consumer; deliveries that were not taken go back to the queue. [`finish`](Self::finish) it if
/// the process may end next.
#[derive(Debug)]
pub struct Consumer {
    fed: mpsc::UnboundedReceiver<Fed>,
    /// Read before other items that are fed.
    source: Option<Source>,
    stop: CancellationToken,
    /// Cancelled when the last settlement has been made.
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

/// The rest of a [`ConsumerHandle`] that hands no more deliveries over: it waits for the settlements. Drop it when the broker
/// has them.
#[derive(Debug)]
pub struct Unflushed {
    settled: CancellationToken,
    _unflushed: mpsc::Sender<Infallible>,
}

/// An item that a consumer is fed.
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

    /// Asks the broker to send no more deliveries. Those that are already here can still be taken by [`next`](Self::next),
    /// which then ends with `None`.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops, and waits until the broker has every settlement made so far: an ack that is still under way when the
    /// process ends is lost. Deliveries that were not taken go back to the queue.
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
    /// Hands a delivery over. If the consumer has ended, the delivery is dropped, and so released.
    pub fn send(&self, delivery: Result<Delivery>) {
        let _ = self.fed.send(Fed::Delivery(delivery));
    }

    /// Makes the consumer take its deliveries from `source` by itself, until that ends: a task in between would be
    /// woken for each delivery.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn attach(&self, source: impl Stream<Item = Delivery> + Send + Sync + 'static) {
        // If the consumer has ended, the source is dropped, as above.
        let _ = self.fed.send(Fed::Source(Source(Box::pin(source))));
    }

    /// Like [`send`](Self::send), for a broker that holds a lock and so must not release a delivery here.
    ///
    /// # Errors
    /// Gives the delivery back if the consumer has ended.
    pub fn offer(&self, delivery: Delivery) -> Result<(), Box<Delivery>> {
        self.fed.send(Fed::Delivery(Ok(delivery))).map_err(|refused| match refused.0 {
            Fed::Delivery(Ok(delivery)) => Box::new(delivery),
            _ => unreachable!("what comes back is what was sent: a delivery"),
        })
    }

    /// Waits until the consumer must be sent no more deliveries. Cancel safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Like [`stopped`](Self::stopped), without the handle: while a handle exists, the consumer cannot see that no more deliveries will come.
    #[cfg(any(feature = "memory", feature = "sqlite-system"))]
    pub(crate) fn until_stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// True if the consumer must be sent no more deliveries.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends the deliveries, for a broker whose settlements take time to arrive. A broker that has them at once drops the
    /// handle. Other clones of it keep the deliveries open.
    pub fn end(self) -> Unflushed {
        Unflushed { settled: self.settled, _unflushed: self.unflushed }
    }
}

impl Unflushed {
    /// Waits until the last settlement has been made. Cancel safe.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }
}
