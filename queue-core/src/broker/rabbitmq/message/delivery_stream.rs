//! One channel's deliveries on their way from lapin to the reader of a [`Consumer`](crate::broker::Consumer), whose own
//! task takes them: a task in between would be woken for each. Opened by `consumer`, and for replies by `wire`, which
//! look after it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_util::{Stream, StreamExt};
use tokio::sync::oneshot;

use crate::broker::Delivery;

/// The state that both ends share.
struct DeliveryStream {
    read: Box<Read>,
    /// True to drain everything buffered on each poll; needed where `read` counts unsettled deliveries.
    takes_all: bool,
    flow: Mutex<Flow>,
}

/// Makes a delivery of a message.
type Read = dyn Fn(lapin::message::Delivery) -> Delivery + Send + Sync;

struct Flow {
    /// lapin's end of it; `None` when nothing more will come.
    fresh: Option<lapin::Consumer>,
    /// Deliveries taken from `fresh` that the reader has not taken yet.
    kept: VecDeque<Delivery>,
    /// How many the reader has taken.
    taken: u64,
    /// The waker of the task that waits for the next delivery.
    waker: Option<Waker>,
    /// Told once, with the error if there was one.
    ended: Option<oneshot::Sender<Option<lapin::Error>>>,
}

/// The reader's end.
pub(crate) struct Deliveries(Arc<DeliveryStream>);

/// The end of who looks after it. Dropped, it ends the deliveries.
pub(crate) struct Keeper(Arc<DeliveryStream>);

/// Tells how a stream has ended by itself: without an error if the server cancelled the consumer.
pub(crate) type Ended = oneshot::Receiver<Option<lapin::Error>>;

/// Both ends of a new stream.
pub(crate) fn open(
    fresh: lapin::Consumer,
    takes_all: bool,
    read: impl Fn(lapin::message::Delivery) -> Delivery + Send + Sync + 'static,
) -> (Keeper, Deliveries, Ended) {
    let (ended, hears) = oneshot::channel();
    let flow = Flow { fresh: Some(fresh), kept: VecDeque::new(), taken: 0, waker: None, ended: Some(ended) };
    let stream = Arc::new(DeliveryStream { read: Box::new(read), takes_all, flow: Mutex::new(flow) });
    (Keeper(stream.clone()), Deliveries(stream), hears)
}

impl DeliveryStream {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next delivery that is not kept yet, or the end.
    fn poll_fresh(&self, flow: &mut Flow, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let Some(fresh) = &mut flow.fresh else { return Poll::Ready(None) };
        let error = match ready!(fresh.poll_next_unpin(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some((self.read)(message))),
            Some(Err(error)) => Some(error),
            None => None,
        };
        flow.fresh = None;
        if let Some(ended) = flow.ended.take() {
            // Who looks after it has gone if it was ended from there.
            let _ = ended.send(error);
        }
        Poll::Ready(None)
    }

    /// Keeps what is here.
    fn keep(&self, flow: &mut Flow) {
        // lapin knows only the last waker that it was shown.
        let waker = flow.waker.clone().unwrap_or_else(|| Waker::noop().clone());
        let mut cx = Context::from_waker(&waker);
        while let Poll::Ready(Some(delivery)) = self.poll_fresh(flow, &mut cx) {
            flow.kept.push_back(delivery);
        }
    }

    /// Takes out what still brings deliveries, after keeping those that are here.
    fn close(&self) -> Option<lapin::Consumer> {
        let mut flow = self.flow();
        self.keep(&mut flow);
        let (fresh, waker) = (flow.fresh.take(), flow.waker.take());
        drop(flow);
        waker.inspect(Waker::wake_by_ref);
        fresh
    }
}

impl Stream for Deliveries {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let mut flow = self.0.flow();
        if let Some(delivery) = flow.kept.pop_front() {
            flow.taken += 1;
            return Poll::Ready(Some(delivery));
        }
        let polled = self.0.poll_fresh(&mut flow, cx);
        flow.taken += u64::from(matches!(polled, Poll::Ready(Some(_))));
        if self.0.takes_all && polled.is_ready() {
            self.0.keep(&mut flow);
        }
        match &mut flow.waker {
            Some(waker) if polled.is_pending() => waker.clone_from(cx.waker()),
            waker if polled.is_pending() => *waker = Some(cx.waker().clone()),
            _ => {}
        }
        polled
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        // They go back, and not while their lock is held.
        let kept = std::mem::take(&mut self.0.flow().kept);
        drop(kept);
    }
}

impl Keeper {
    /// Sees whether it has ended, which a busy reader hears of only with its next delivery. Returns how many deliveries
    /// the reader has taken.
    pub(crate) fn look(&self) -> u64 {
        let mut flow = self.0.flow();
        self.0.keep(&mut flow);
        // No other task knows of the deliveries taken here.
        let is_news = flow.fresh.is_none() || !flow.kept.is_empty();
        let waker = if is_news { flow.waker.take() } else { None };
        let taken = flow.taken;
        drop(flow);
        waker.inspect(Waker::wake_by_ref);
        taken
    }

    /// Gives back what is here and the reader has not taken; says how many those were.
    pub(crate) fn give_back(&self) -> usize {
        let kept = std::mem::take(&mut self.0.flow().kept);
        kept.len()
    }

    /// Ends the deliveries; those that are here can still be taken. Returns what brings more until it is cancelled.
    pub(crate) fn close(&self) -> Option<lapin::Consumer> {
        self.0.close()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.close();
    }
}
