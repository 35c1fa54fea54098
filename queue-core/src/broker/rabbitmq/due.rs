//! Routes what is delayed. A job waits on the rung of the ladder that is at most its delay, arrives in
//! `<namespace>.due`, and goes from there to its queue, or, if there is time left, to the next rung.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::{Core, consumer};
use crate::broker::{ConsumeOptions, Delivery, Publish};
use crate::clock::{from_millis, to_millis};
use crate::envelope::{Envelope, HeaderValue, header};
use crate::error::{ErrorKind, PublishError, Result, chain};
use crate::settlement::{Settlement, strip_broker_traces};
use crate::topology::{Name, rung_for};

/// How many delayed jobs are held at once.
const PREFETCH: u16 = 1000;
/// What a queue that refuses a job is given before it is asked again.
const REFUSED: Duration = Duration::from_secs(2);
/// After how long it is tried again to consume what could not be consumed.
const AGAIN: Duration = Duration::from_secs(10);
/// How long what is being moved may take when the router stops: more than the lowest rung and a confirm.
const FINISH: Duration = Duration::from_secs(1);

/// Where a delayed job goes next.
#[derive(Debug, PartialEq)]
enum Next {
    /// Its time has come, or comes in less than the lowest rung: wait and deliver it.
    Deliver,
    /// It waits on this rung.
    Rung(u32),
}

fn next(now: SystemTime, eta: SystemTime) -> Next {
    match rung_for(eta.duration_since(now).unwrap_or_default()) {
        Some(rung) => Next::Rung(rung),
        None => Next::Deliver,
    }
}

/// Marks an envelope as delayed. The ladder carries no priority, so that nothing overtakes there.
pub(super) fn delayed(mut envelope: Envelope, target: &str, eta: SystemTime) -> Envelope {
    strip_broker_traces(&mut envelope);
    // Rounded up: a job may be late by a millisecond, but never early.
    let eta = eta.checked_add(Duration::from_nanos(999_999)).unwrap_or(eta);
    envelope.headers.insert(header::ETA, to_millis(eta));
    envelope.headers.insert(header::TARGET, target);
    if let Some(priority) = envelope.priority.take() {
        envelope.headers.insert(header::PRIORITY, i64::from(priority));
    }
    // It would expire on its rung, and be early.
    envelope.expiration = None;
    envelope
}

/// The reverse: as it was published, and where to and when. `None` if it is no delayed job at all.
fn arrived(envelope: &Envelope) -> Option<(Envelope, Name, SystemTime)> {
    let mut envelope = envelope.clone();
    strip_broker_traces(&mut envelope);
    let target = match envelope.headers.remove(header::TARGET) {
        Some(HeaderValue::String(target)) if !target.is_empty() => target,
        _ => return None,
    };
    let eta = envelope.headers.remove(header::ETA).and_then(|eta| eta.as_int()).unwrap_or(0);
    if let Some(priority) = envelope.headers.remove(header::PRIORITY).and_then(|value| value.as_int()) {
        envelope.priority = u8::try_from(priority).ok();
    }
    Some((envelope, target.into(), from_millis(eta)))
}

/// Routes until `stop`. Owned by the broker's consumers: it runs while there is one.
pub(super) async fn route(core: Arc<Core>, stop: CancellationToken) {
    loop {
        match route_on(&core, &stop).await {
            Err(error) if error.kind() != ErrorKind::Closed => {
                tracing::error!(error = %chain(&error), again = ?AGAIN, "delayed jobs cannot be routed; trying again");
            }
            _ => return,
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
            () = core.shared.closed.cancelled() => return,
        }
        // What is wrong shows when it is consumed.
        let _ = core.shared.redeclare().await;
    }
}

/// Routes until `stop`, the end of the broker, or that of the queue.
async fn route_on(core: &Arc<Core>, stop: &CancellationToken) -> Result<()> {
    let options = ConsumeOptions::new(core.shared.settings.namespace.due()).prefetch(PREFETCH);
    let mut consumer = consumer::start(core.clone(), options, None).await?;
    let mut moving = FuturesUnordered::new();
    loop {
        tokio::select! {
            delivery = consumer.next() => match delivery {
                Some(delivery) => moving.push(forward(core, delivery?)),
                None => break,
            },
            Some(()) = moving.next() => {}
            () = stop.cancelled() => break,
        }
    }
    consumer.stop();
    // What has been published and is not acked would be routed once more, and run twice.
    let finish = async { while moving.next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH, finish).await;
    // What is still held goes back to the queue, by being dropped.
    Ok(())
}

async fn forward(core: &Arc<Core>, delivery: Delivery) {
    let clock = &core.shared.settings.clock;
    // It comes again: moved twice, it would run twice.
    if delivery.is_lost() {
        return;
    }
    let moved = match arrived(&delivery.envelope) {
        None => to_unroutable(core, &delivery).await,
        Some((envelope, target, eta)) => match next(clock.now(), eta) {
            Next::Rung(_) => core.publish_delayed(envelope, target, eta).await,
            Next::Deliver => {
                clock.sleep_until(eta).await;
                if delivery.is_lost() {
                    return;
                }
                match core.publisher.publish(Publish::to_queue(target.clone(), envelope.clone())).await {
                    Err(PublishError::Unroutable { .. }) => to_unroutable(core, &delivery).await,
                    Err(PublishError::QueueFull { .. }) => {
                        tracing::warn!(queue = %target, "a delayed job's queue is full; it waits again");
                        core.publish_delayed(envelope, target, clock.now() + REFUSED).await
                    }
                    outcome => outcome,
                }
            }
        },
    };
    let settled = match moved {
        Ok(()) => delivery.settle(Settlement::Ack).await,
        Err(PublishError::Closed) => delivery.settle(Settlement::Release).await,
        Err(error) => {
            tracing::warn!(%error, "a delayed job could not be moved; trying again");
            // Given back at once it would come at once.
            tokio::time::sleep(REFUSED).await;
            delivery.settle(Settlement::Release).await
        }
    };
    if let Err(error) = settled {
        tracing::debug!(%error, "a delayed job will come again");
    }
}

/// Keeps a job whose queue has gone, with all it says about itself.
async fn to_unroutable(core: &Arc<Core>, delivery: &Delivery) -> Result<(), PublishError> {
    let mut envelope = delivery.envelope.clone();
    let target = envelope.headers.get(header::TARGET).and_then(HeaderValue::as_str).unwrap_or("").to_owned();
    let unroutable = core.shared.settings.namespace.unroutable();
    tracing::error!(
        queue = target, job = %envelope.id, kept_in = %unroutable,
        "a delayed job's queue does not exist"
    );
    strip_broker_traces(&mut envelope);
    core.publisher.publish(Publish::to_queue(unroutable, envelope)).await
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn delayed_job_comes_out_as_it_went_in() {
        let mut job = Envelope::new("{}");
        job.priority = Some(3);
        job.attempt = 2;
        job.headers.insert("tenant", "blue");
        let eta = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);

        let waiting = delayed(job.clone(), "emails", eta);
        let (back, target, when) = arrived(&waiting).unwrap();

        assert_eq!(waiting.priority, None);
        assert_eq!(format!("{back:?}"), format!("{job:?}"));
        assert_eq!(target, "emails");
        assert!(when >= eta && when <= eta + Duration::from_millis(1));
    }

    #[test]
    fn job_takes_the_highest_rung_that_is_not_too_long() {
        let at = |millis| next(UNIX_EPOCH, UNIX_EPOCH + Duration::from_millis(millis));

        assert_eq!(at(0), Next::Deliver);
        assert_eq!(at(124), Next::Deliver);
        assert_eq!(at(125), Next::Rung(0));
        assert_eq!(at(1_100), Next::Rung(3));
        assert_eq!(next(UNIX_EPOCH + Duration::from_secs(9), UNIX_EPOCH), Next::Deliver);
    }

    #[test]
    fn message_without_a_target_is_no_delayed_job() {
        assert!(arrived(&Envelope::new("{}")).is_none());
    }
}
