//! Takes deliveries from one queue's consumer and hands each to `process`, on a tokio task of its own where several run at
//! once. Started by `run`, one per queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use queue_core::broker::{Consumer, Delivery};
use queue_core::error::{Error, ErrorKind, Result, chain};
use queue_core::settlement::Settlement;

use crate::lane::Lane;
use crate::process::process;
use crate::settle;

/// How long a stopping worker waits for deliveries that arrive too late to be started. The broker takes back those that arrive
/// later, when the consumer ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a queue that the broker has given up is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// The rest of a fetcher that has ended.
pub(crate) struct Fetched {
    /// To be [finished](Consumer::finish) when all jobs are settled.
    pub(crate) consumer: Consumer,
    /// An error if the client was closed; and, where the worker ends when it is idle, if the broker gave the queue up.
    pub(crate) ended: Result<()>,
}

/// Runs a queue's jobs until the worker stops, then gives back those that have not been started. A queue that the broker
/// gives up is tried again and again: it must not stop the others.
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

/// The reason why a queue's jobs are no longer run.
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
    let mut is_stopped = false;
    loop {
        if std::mem::take(&mut is_stopped) || lane.shared.turns.is_wanted() {
            // The worker must hold no job that has not begun when a process ends.
            stop(lane, consumer).await;
            // With a slot, so that the next delivery can begin.
            let over = async {
                lane.shared.turns.over().await;
                drop(lane.slots.take().await);
            };
            tokio::select! {
                biased;
                () = &mut stopping => return Ended::Stopped,
                () = over => {}
            }
            match consume_anew(lane).await {
                Ok(again) => *consumer = again,
                Err(error) if error.kind() == ErrorKind::Closed => return Ended::Closed,
                Err(error) => return Ended::GivenUp(error),
            }
            continue;
        }
        let slot = tokio::select! {
            biased;
            () = &mut stopping => return Ended::Stopped,
            slot = lane.slots.take() => slot,
            () = lane.slots.clogged() => {
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
        // Since the slot was waited for.
        if lane.shared.turns.is_wanted() {
            continue;
        }
        let delivery = tokio::select! {
            biased;
            () = &mut stopping => return Ended::Stopped,
            delivery = next(lane, consumer) => delivery,
            () = lane.shared.turns.wanted() => continue,
        };
        match delivery {
            Some(Ok(delivery)) if lane.shared.turns.is_wanted() => {
                lane.shared.activity.began(&lane.queue, &delivery.envelope);
                settle::carry_out(lane, delivery, Settlement::Release.into(), Instant::now()).await;
            }
            Some(Ok(delivery)) => {
                lane.shared.activity.began(&lane.queue, &delivery.envelope);
                let in_hand = lane.slots.take_in_hand();
                // After the slot, unless a function goes on that has outlived its timeout.
                let lane_of_job = Arc::clone(lane);
                let job = async move {
                    drop(process(&lane_of_job, slot, delivery).await);
                    drop(in_hand);
                };
                if !lane.has_one_slot {
                    // Boxed: it has some kilobytes, and is moved from hand to hand before it runs.
                    lane.shared.jobs.spawn(Box::pin(job));
                    continue;
                }
                // There is nothing to do beside it, so it needs no task of its own. But a panic ends with it, as there.
                let job = lane.shared.jobs.track_future(AssertUnwindSafe(job).catch_unwind());
                tokio::pin!(job);
                tokio::select! {
                    biased;
                    _ = &mut job => {}
                    () = lane.shared.turns.wanted() => {
                        // Perhaps this very job wants it. Its settlement must not bring another delivery.
                        consumer.stop();
                        let _ = job.await;
                        is_stopped = true;
                    }
                    () = &mut stopping => {
                        // Or its settlement would bring one more delivery, only to be given back.
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

/// The next delivery that is still ours. Lost deliveries are dropped and counted: the broker delivers them again, so a run here
/// would be wasted. Cancel safe.
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
            // No delivery is left for now; or the consumer has ended, and says so again.
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
    let (queue, running) = (&lane.queue, lane.slots.taken());
    tracing::warn!(
        target: "leveret", worker = %lane.shared.name, %queue, running,
        "all slots of the queue are held by functions that go on after their timeout; other workers get its jobs until one returns"
    );
    tokio::select! {
        biased;
        () = lane.shared.steps.stopping() => return Ok(None),
        slot = lane.slots.take() => drop(slot),
    }
    lane.consume().await.map(Some)
}

/// Consumes a queue again, which may have been deleted meanwhile: then it is declared anew.
///
/// # Errors
/// If it cannot be consumed.
async fn consume_anew(lane: &Lane) -> Result<Consumer> {
    match lane.consume().await {
        Err(error) if error.kind() != ErrorKind::Closed => {
            lane.shared.client.declare_queue(lane.plan.spec).await?;
            lane.consume().await
        }
        consumed => consumed,
    }
}

/// Consumes again a queue that the broker had given up; `None` if the worker stops first.
///
/// # Errors
/// If the client was closed.
async fn consume_again(lane: &Lane, mut error: Error) -> Result<Option<Consumer>> {
    loop {
        let (queue, reason) = (&lane.queue, chain(&error));
        tracing::error!(
            target: "leveret", worker = %lane.shared.name, %queue, error = %reason, again = ?AGAIN,
            "queue cannot be consumed; its jobs wait, and the worker goes on with its other queues"
        );
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = lane.shared.steps.stopping() => return Ok(None),
        }
        match consume_anew(lane).await {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(closed(lane)),
            Err(again) => error = again,
        }
    }
}

/// Stops a consumer, and gives back the deliveries that still arrive.
async fn stop(lane: &Lane, consumer: &mut Consumer) {
    consumer.stop();
    let release = async {
        let mut given_back = Vec::new();
        while let Some(Ok(delivery)) = next(lane, consumer).await {
            lane.shared.activity.began(&lane.queue, &delivery.envelope);
            given_back.push(settle::carry_out(lane, delivery, Settlement::Release.into(), Instant::now()));
        }
        // All at once: giving one back may take a confirm.
        join_all(given_back).await;
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
