//! Takes the jobs of a queue that were set apart, one at a time. Started by `run`, one per queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use queue_core::broker::{Consumer, Delivery, Returns};
use queue_core::error::{Error, ErrorKind, chain};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;
use tokio::sync::Semaphore;

use super::inspect::{Inspected, LEFT, Place, give_back, inspect};
use super::turn::Turn;
use crate::lane::Lane;
use crate::process::{self, Arrived};
use crate::settle;

/// The pause between two looks for jobs that other workers have set apart.
const LOOK: Duration = Duration::from_secs(60);
/// The longest wait until given-back jobs are with other workers, or a slot is free when nothing runs.
const FINISHES: Duration = Duration::from_secs(2);
/// The longest wait for the marked copy of a job.
const COMES: Duration = Duration::from_secs(5);

/// The longest wait for the next suspect, before the other queues go on.
const NEXT: Duration = Duration::from_millis(100);
/// Workers may have thousands of queues, and each look takes a channel.
static LOOKS: Semaphore = Semaphore::const_new(4);

/// Takes the jobs that were set apart, until the worker stops. Returns the consumer, if there is one, to be
/// [finished](Consumer::finish) when all jobs are settled.
pub(crate) async fn fetch(lane: Arc<Lane>) -> Option<Consumer> {
    let steps = &lane.shared.steps;
    let mut look_after = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = steps.stopping() => return None,
            () = lane.suspects.filled() => {}
            () = tokio::time::sleep(look_after) => {}
        }
        look_after = if lane.suspects.is_seen() { LOOK } else { LEFT };
        let Some(queue) = lane.suspects.name() else { continue };
        let consumer = tokio::select! {
            biased;
            () = steps.stopping() => return None,
            consumer = consume(&lane, queue) => consumer,
        };
        let Some(mut consumer) = consumer else { continue };
        let ended = take_all(&lane, &mut consumer).await;
        let _ = tokio::time::timeout(FINISHES, give_all_back(&lane, &mut consumer)).await;
        match ended {
            Ended::Stopped => return Some(consumer),
            Ended::Left => {
                let _ = tokio::time::timeout(FINISHES, consumer.finish()).await;
                look_after = LEFT;
            }
            Ended::Gone => {}
        }
    }
}

/// Begins to consume the queue, if it is there.
async fn consume(lane: &Lane, queue: &Name) -> Option<Consumer> {
    let operator = lane.shared.client.operator().ok()?;
    let _look = LOOKS.acquire().await;
    let found = operator.inspect(queue).await;
    // A user without the permission to look never gets an answer.
    let is_away = |error: &Error| matches!(error.kind(), ErrorKind::Connection | ErrorKind::Closed);
    if !found.as_ref().is_err_and(is_away) {
        lane.suspects.see();
    }
    if let Err(error) = found {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Connection | ErrorKind::Closed) {
            let error = chain(&error);
            tracing::warn!(target: "leveret", %queue, %error, "worker cannot see if jobs wait to run alone; they wait for other workers; let this user configure the queue");
        }
        return None;
    }
    match lane.consume_apart(queue).await {
        Ok(consumer) => {
            lane.suspects.use_it();
            Some(consumer)
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(target: "leveret", %queue, %error, "worker cannot consume the queue of jobs that run alone; they wait");
            None
        }
    }
}

/// Stops a consumer, and gives back the deliveries that still arrive.
async fn give_all_back(lane: &Lane, consumer: &mut Consumer) {
    consumer.stop();
    while let Some(Ok(delivery)) = consumer.next().await {
        lane.shared.activity.began(&lane.queue, &delivery.envelope);
        if delivery.returns == Returns::Never {
            give_back(lane, Place::Apart, delivery, Instant::now()).await;
        } else {
            settle::carry_out(lane, delivery, Settlement::Release.into(), Instant::now()).await;
        }
    }
}

/// The reason why no more jobs are taken.
enum Ended {
    /// The worker stops.
    Stopped,
    /// The queue's next job is for another worker.
    Left,
    /// The consumer has ended.
    Gone,
}

async fn take_all(lane: &Arc<Lane>, consumer: &mut Consumer) -> Ended {
    let steps = &lane.shared.steps;
    // The turn of a job whose marked copy is expected, or of the last job, kept for the next one; and how long it is kept.
    let mut turn: Option<(Turn, Duration)> = None;
    loop {
        if turn.as_ref().is_some_and(|(turn, _)| turn.is_long()) {
            turn = None;
            // The other queues stood still for long, and go on for a while.
            tokio::select! {
                () = steps.stopping() => {}
                () = tokio::time::sleep(LEFT) => {}
            }
        }
        let comes = async {
            match &turn {
                Some((_, comes)) => tokio::time::sleep(*comes).await,
                None => std::future::pending().await,
            }
        };
        let delivery = tokio::select! {
            biased;
            () = steps.stopping() => {
                if turn.is_some() && let Ok(Some(Ok(marked))) = tokio::time::timeout(FINISHES, consumer.next()).await {
                    lane.shared.activity.began(&lane.queue, &marked.envelope);
                    give_back(lane, Place::Apart, marked, Instant::now()).await;
                }
                return Ended::Stopped;
            }
            delivery = consumer.next() => delivery,
            () = comes => {
                turn = None;
                continue;
            }
        };
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(_)) | None => return Ended::Gone,
        };
        lane.shared.activity.began(&lane.queue, &delivery.envelope);
        match take(lane, delivery, turn.take().map(|(turn, _)| turn), consumer).await {
            Some(Taken::Marked(marked)) => turn = Some((marked, COMES)),
            Some(Taken::Ran(ran)) => turn = ran.map(|turn| (turn, NEXT)),
            Some(Taken::Left) => return Ended::Left,
            None => {}
        }
    }
}

enum Taken {
    Marked(Turn),
    /// The next one may have the turn, too.
    Ran(Option<Turn>),
    Left,
}

/// Lets one job run alone, or prepares its run.
async fn take(
    lane: &Arc<Lane>,
    delivery: Delivery,
    turn: Option<Turn>,
    consumer: &Consumer,
) -> Option<Taken> {
    let shared = &lane.shared;
    let Arrived { delivery, key, started } = process::arrive(lane, delivery).await.ok()?;
    let (delivery, turn) = match inspect(lane, Place::Apart, delivery, turn).await {
        Inspected::Run(delivery, turn) => (delivery, turn),
        Inspected::Marked(turn) => return Some(Taken::Marked(turn)),
        Inspected::Left => return Some(Taken::Left),
        Inspected::Settled(_) => return None,
    };
    // The queue's own. Functions that go on after their timeout may have them all.
    let slot = tokio::select! {
        biased;
        () = shared.steps.stopping() => None,
        slot = tokio::time::timeout(FINISHES, lane.slots.take()) => slot.ok(),
    };
    let Some(slot) = slot else {
        give_back(lane, Place::Apart, delivery, started).await;
        return Some(Taken::Left);
    };
    let in_hand = lane.slots.take_in_hand();
    let arrived = Arrived { delivery, key, started };
    let job = async {
        drop(process::run(lane, slot, arrived, turn.as_ref(), Place::Apart).await);
        drop(in_hand);
    };
    {
        let job = shared.jobs.track_future(AssertUnwindSafe(job).catch_unwind());
        tokio::pin!(job);
        tokio::select! {
            biased;
            _ = &mut job => {}
            () = shared.steps.stopping() => {
                consumer.stop();
                let _ = job.await;
            }
        }
    }
    Some(Taken::Ran(turn))
}
