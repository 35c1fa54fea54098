//! Takes deliveries from one queue's consumer and walks each through `execute` and `settle`, on a tokio task of its
//! own where several run at once. Called by `worker`, one per queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use queue_core::broker::{ConsumeOptions, Consumer, Delivery};
use queue_core::envelope::{Headers, header};
use queue_core::error::{Error, ErrorKind, Result, chain};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument;

use crate::context::Context;
use crate::execute::{self, Executed};
use crate::registry::Queue;
use crate::reply;
use crate::settle;
use crate::worker::Shared;

/// How long deliveries that came too late to be started are waited for when the worker stops. What comes later is
/// given back by the broker when the consumer goes.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon a queue that the broker has given up is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// One queue of one worker.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Name,
    /// The tasks of this queue, for messages that name none or an unknown one.
    pub(crate) plan: Queue,
    concurrency: u16,
    /// Whether jobs run one after another, and no more are fetched than run.
    has_one_slot: bool,
    /// As many permits as jobs may still begin.
    slots: Semaphore,
    /// How many slots are taken. The semaphore does not say: it hands a permit over without ever having it.
    taken: AtomicUsize,
    /// How many deliveries are taken and not settled.
    in_hand: AtomicUsize,
    /// Told when there is none.
    none_in_hand: Notify,
    /// Whether the log says that messages come without an id.
    is_told_of_no_id: AtomicBool,
}

/// The right to run one job. Given back when dropped.
pub(crate) struct Slot(Arc<Lane>);

/// A delivery that is not settled, until this is dropped.
struct InHand(Arc<Lane>);

impl Lane {
    /// Says once that the ids of this queue's messages are not what handlers take them for.
    fn tell_of_no_id(&self) {
        if !self.is_told_of_no_id.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "leveret",
                queue = %self.queue,
                "messages come without an id: `context.id()` changes when one is delivered again, so that a handler cannot \
                 deduplicate by it; have the program that publishes them set the AMQP property `message_id`"
            );
        }
    }

    pub(crate) fn new(shared: Arc<Shared>, plan: Queue, concurrency: u16) -> Arc<Self> {
        let queue = plan.spec.name().clone();
        let slots = Semaphore::new(concurrency.into());
        let has_one_slot = concurrency == 1 && plan.spec.get_prefetch().is_none_or(|prefetch| prefetch <= 1);
        Arc::new(Self {
            shared,
            queue,
            plan,
            concurrency,
            has_one_slot,
            slots,
            taken: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            none_in_hand: Notify::new(),
            is_told_of_no_id: AtomicBool::new(false),
        })
    }

    /// Waits for a free slot. Cancel safe.
    pub(crate) async fn slot(self: &Arc<Self>) -> Slot {
        self.slots.acquire().await.expect("slots are never closed").forget();
        self.taken.fetch_add(1, Ordering::SeqCst);
        Slot(Arc::clone(self))
    }

    /// Waits until all slots are held by functions that go on after their timeout. What the broker sends then nobody would
    /// run, and no other worker would get. Cancel safe.
    async fn clogged(&self) {
        loop {
            let none_in_hand = self.none_in_hand.notified();
            // In this order: a job gives its slot back before it is in hand no more.
            if self.in_hand.load(Ordering::SeqCst) == 0 && self.running() == usize::from(self.concurrency) {
                return;
            }
            none_in_hand.await;
        }
    }

    /// Notes that a delivery is taken.
    fn take_in_hand(self: &Arc<Self>) -> InHand {
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        InHand(Arc::clone(self))
    }

    /// Waits until no job runs: not even a blocking function that has outlived its timeout. Only after fetching
    /// has ended.
    pub(crate) async fn empty(&self) {
        let _ = self.slots.acquire_many(self.concurrency.into()).await.expect("slots are never closed");
    }

    /// Consumes the queue, with as many unsettled deliveries as run at once, unless it asks for more: nothing is
    /// hoarded.
    ///
    /// # Errors
    /// If the queue cannot be consumed.
    pub(crate) async fn consume(&self) -> Result<Consumer> {
        let spec = self.plan.spec;
        let client = &self.shared.client;
        let mut options = ConsumeOptions::new(spec.name().clone())
            .prefetch(spec.get_prefetch().unwrap_or(1).max(self.concurrency))
            .dead_letter(spec.dead_letter_route(client.namespace()));
        options.name = Some(self.shared.name.clone());
        client.broker().consume(options).await
    }

    /// How many slots are taken.
    pub(crate) fn running(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Slot {
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before whoever waits for it takes it.
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.slots.add_permits(1);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none_in_hand.notify_one();
        }
    }
}

/// What is left when a queue is not fetched from any more.
pub(crate) struct Fetched {
    /// To be [finished](Consumer::finish) when all jobs are settled.
    pub(crate) consumer: Consumer,
    /// An error if the client was closed; and, where the worker ends when it is idle, if the broker gave the queue up.
    pub(crate) ended: Result<()>,
}

/// Runs a queue's jobs until the worker stops, then gives back what has not been started. A queue that the broker
/// gives up is tried again, and again: it must not stop the others.
pub(crate) async fn fetch(lane: Arc<Lane>, mut consumer: Consumer) -> Fetched {
    let ended = loop {
        let ended = consume(&lane, &mut consumer).await;
        stop(&lane, &mut consumer).await;
        match ended {
            Ended::Stopped => break Ok(()),
            Ended::Closed => break Err(closed(&lane)),
            // Its jobs will not be done, so there is nothing to wait for.
            Ended::GivenUp(error) if lane.shared.activity.is_watched() => {
                break Err(cannot_consume(&lane).with_source(error));
            }
            Ended::GivenUp(error) => match consume_again(&lane, error).await {
                Ok(Some(again)) => consumer = again,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
        }
    };
    Fetched { consumer, ended }
}

/// Why a queue's jobs are no longer run.
enum Ended {
    /// The worker stops.
    Stopped,
    /// The client was closed.
    Closed,
    /// The broker cannot consume it, for this reason.
    GivenUp(Error),
}

/// Permit first and then the work: nothing is taken that cannot be started at once.
async fn consume(lane: &Arc<Lane>, consumer: &mut Consumer) -> Ended {
    let steps = &lane.shared.steps;
    let stopping = steps.stopping();
    tokio::pin!(stopping);
    loop {
        let slot = tokio::select! {
            biased;
            () = &mut stopping => return Ended::Stopped,
            slot = lane.slot() => slot,
            () = lane.clogged() => {
                stop(lane, consumer).await;
                match consume_once_free(lane).await {
                    Ok(Some(again)) => *consumer = again,
                    Ok(None) => return Ended::Stopped,
                    Err(error) if error.kind() == ErrorKind::Closed => return Ended::Closed,
                    Err(error) => return Ended::GivenUp(error),
                }
                continue;
            }
        };
        let delivery = tokio::select! {
            biased;
            () = &mut stopping => return Ended::Stopped,
            delivery = next(lane, consumer) => delivery,
        };
        match delivery {
            Some(Ok(delivery)) => {
                lane.shared.activity.began(&lane.queue, &delivery.envelope);
                let in_hand = lane.take_in_hand();
                // After the slot, unless a function goes on that has outlived its timeout.
                let job = async move {
                    drop(process(slot, delivery).await);
                    drop(in_hand);
                };
                if !lane.has_one_slot {
                    lane.shared.jobs.spawn(job);
                    continue;
                }
                // There is nothing to do beside it, so it needs no task of its own. But a panic ends with it, as there.
                let job = lane.shared.jobs.track_future(AssertUnwindSafe(job).catch_unwind());
                tokio::pin!(job);
                tokio::select! {
                    biased;
                    _ = &mut job => {}
                    () = &mut stopping => {
                        // Or its settlement would bring one more, only to be given back.
                        consumer.stop();
                        let _ = job.await;
                        return Ended::Stopped;
                    }
                }
            }
            Some(Err(error)) => return Ended::GivenUp(error),
            None => return Ended::Closed,
        }
    }
}

/// The next delivery that is still ours. What is lost is dropped and counted: the broker delivers it again, so here it would
/// run in vain. Cancel safe.
async fn next(lane: &Lane, consumer: &mut Consumer) -> Option<Result<Delivery>> {
    loop {
        let mut next = consumer.next().await;
        let mut lost = 0;
        while let Some(Ok(delivery)) = &next
            && delivery.is_lost()
        {
            lost += 1;
            next = consumer.try_next();
        }
        if lost > 0 {
            settle::lost(lane, lost);
            // Nothing is here any more, or nothing will come, which it says again.
            if next.is_none() {
                continue;
            }
        }
        return next;
    }
}

/// Leaves the queue to other workers until one of its functions has returned; `None` if the worker stops first.
///
/// # Errors
/// If it cannot be consumed then.
async fn consume_once_free(lane: &Arc<Lane>) -> Result<Option<Consumer>> {
    let (queue, running) = (&lane.queue, lane.running());
    tracing::warn!(
        target: "leveret", worker = %lane.shared.name, %queue, running,
        "all slots of the queue are held by functions that go on after their timeout; other workers may have its jobs \
         until one returns"
    );
    tokio::select! {
        biased;
        () = lane.shared.steps.stopping() => return Ok(None),
        slot = lane.slot() => drop(slot),
    }
    lane.consume().await.map(Some)
}

/// Consumes once more what the broker had given up; `None` if the worker stops first.
///
/// # Errors
/// If the client was closed.
async fn consume_again(lane: &Lane, mut error: Error) -> Result<Option<Consumer>> {
    loop {
        let (queue, reason) = (&lane.queue, chain(&error));
        tracing::error!(
            target: "leveret", worker = %lane.shared.name, %queue, error = %reason, again = ?AGAIN,
            "queue cannot be consumed; its jobs wait, and the worker goes on with the others"
        );
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = lane.shared.steps.stopping() => return Ok(None),
        }
        match lane.consume().await {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(closed(lane)),
            Err(again) => error = again,
        }
    }
}

/// One delivery's way. What came of it has been settled by then.
pub(crate) async fn process(slot: Slot, mut delivery: Delivery) -> Executed {
    let lane = Arc::clone(slot.lane());
    let started = Instant::now();
    // Its turn on a thread may have come late.
    if delivery.is_lost() {
        lane.shared.activity.ended(&lane.queue, &delivery.envelope.id, &Settlement::Release);
        settle::lost(&lane, 1);
        return Executed::Lost;
    }
    if reply::is_abandoned(&lane, &delivery.envelope) {
        settle::settle(&lane, delivery, &Executed::Abandoned, started).await;
        return Executed::Abandoned;
    }
    let task = match execute::find(&lane, &delivery.envelope) {
        Ok(task) => task,
        Err(executed) => {
            settle::settle(&lane, delivery, &executed, started).await;
            return executed;
        }
    };
    if task.registration.is_subscriber {
        remember_origin(&mut delivery);
    }
    let span = execute::span(&lane, task, &delivery);
    let context = Arc::new(Context::new(slot, task, &mut delivery, started));
    if !context.has_stable_id() {
        lane.tell_of_no_id();
    }
    let payload = delivery.envelope.payload.clone();

    let executed = execute::execute(&context, task, payload).instrument(span.clone()).await;
    if let Executed::Ran { outcome, .. } = &executed {
        execute::record(&span, outcome);
    }
    settle::settle(&lane, delivery, &executed, started).instrument(span).await;
    // The context holds the slot, and so it stays taken until the job is settled.
    drop(context);
    executed
}

/// A retry goes to the event's queue alone: where the event came from stands in headers then.
fn remember_origin(delivery: &mut Delivery) {
    let headers = &mut delivery.envelope.headers;
    let text =
        |headers: &Headers, name: &str| headers.get(name).and_then(|value| value.as_str().map(str::to_owned));
    match (text(headers, header::EXCHANGE), text(headers, header::ROUTING_KEY)) {
        (Some(exchange), Some(routing_key)) => {
            delivery.exchange = exchange;
            delivery.routing_key = routing_key;
        }
        _ if !delivery.exchange.is_empty() => {
            headers.insert(header::EXCHANGE, delivery.exchange.as_str());
            headers.insert(header::ROUTING_KEY, delivery.routing_key.as_str());
        }
        _ => {}
    }
}

/// Stops a consumer, and gives back what it still brings.
async fn stop(lane: &Lane, consumer: &mut Consumer) {
    consumer.stop();
    let release = async {
        while let Some(Ok(delivery)) = next(lane, consumer).await {
            lane.shared.activity.began(&lane.queue, &delivery.envelope);
            settle::carry_out(lane, delivery, Settlement::Release.into(), Instant::now()).await;
        }
    };
    // Bounded, since a broker that is away cannot end the consumer; dropping it gives the rest back.
    let _ = tokio::time::timeout(RELEASE_TIMEOUT, release).await;
}

fn cannot_consume(lane: &Lane) -> Error {
    let queue = &lane.queue;
    Error::new(ErrorKind::Worker, format!("queue `{queue}` cannot be consumed any more"))
}

fn closed(lane: &Lane) -> Error {
    let queue = &lane.queue;
    Error::new(
        ErrorKind::Closed,
        format!(
            "the client was closed while a worker consumed queue `{queue}`; shut the worker down before \
             closing its client"
        ),
    )
}
