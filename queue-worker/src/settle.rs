//! Carries out a decision about a delivery. The only caller of [`Delivery::settle`], and never middleware: where
//! retrying is an optional hook, a failed publish of the retry loses the job.

use std::sync::atomic::Ordering;
use std::time::Instant;

use queue_core::broker::{Broker, Delivery, Publish};
use queue_core::call::wire;
use queue_core::envelope::{Envelope, header};
use queue_core::error::{PublishError, SettleError, chain};
use queue_core::settlement::{ReasonKind, Settlement};

use crate::decide::{Decision, too_large};
use crate::events::{JobEvent, JobInfo};
use crate::lane::Lane;
use crate::repeat::{Key, Unheard};
use crate::report;

/// Carries a decision out and reports it. Returns what to remember in case the delivery comes again.
pub(crate) async fn carry_out(
    lane: &Lane,
    delivery: Delivery,
    decision: Decision,
    started: Instant,
) -> Option<Unheard> {
    let mut is_done = false;
    carry_out_and_note(lane, delivery, decision, started, &mut is_done).await
}

/// Moves a job: its copy replaces it. Returns true if the broker has done it. An original that the broker delivers again all the
/// same, because it did not hear the ack, is known again and acked.
pub(crate) async fn is_moved(lane: &Lane, delivery: Delivery, settlement: Settlement) -> bool {
    let mut is_done = false;
    let key = Key::of(&delivery.envelope);
    let unheard = carry_out_and_note(lane, delivery, settlement.into(), Instant::now(), &mut is_done).await;
    if is_done && let (Some(key), Some(unheard)) = (key, unheard) {
        lane.repeats.note_ended(key, unheard);
    }
    is_done
}

async fn carry_out_and_note(
    lane: &Lane,
    mut delivery: Delivery,
    decision: Decision,
    started: Instant,
    is_done: &mut bool,
) -> Option<Unheard> {
    let shared = &lane.shared;
    let settling = shared.activity.settling();
    let Decision { before, settlement, fate } = decision;
    if matches!(settlement, Settlement::Retry { .. } | Settlement::DeadLetter { .. }) {
        delivery.envelope.headers.insert(header::WORKER, shared.name.as_str());
    }
    let job = lane.job_info(&delivery.envelope);
    let clock = shared.client.clock();
    let scheduled = shared.activity.schedules(&lane.queue, &delivery.envelope, &settlement, || clock.now());
    let told = settlement.clone();
    for reply in before {
        send(&**shared.client.broker(), &delivery.envelope, &job, reply).await;
    }

    let is_release = matches!(settlement, Settlement::Release);
    let may_be_lost = delivery.ack_may_be_lost();

    let settled = delivery.settle(settlement).await;

    let took = started.elapsed();
    let is_unacked = matches!(settled, Err(SettleError::Unacked));
    if is_unacked {
        let JobInfo { id, task, queue, .. } = &job;
        tracing::warn!(target: "leveret", %id, %task, %queue, error = %SettleError::Unacked, "job was settled by its copy, but its original could not be acked; the broker delivers it again, and it is acked then");
    }
    match settled {
        // The job is settled; its original will be acked when it comes again.
        Ok(()) | Err(SettleError::Unacked) => {
            *is_done = true;
            report::count(&shared.tally, &told, &fate);
            report::log(&job, lane.plan.spec, &told, &fate, took, clock);
            settling.ended(scheduled);
            shared.events.emit(|| report::event(job, told, fate, took));
            (is_unacked || may_be_lost && !is_release).then_some(Unheard::Told)
        }
        Err(error) => {
            shared.tally.settle_failed.fetch_add(1, Ordering::Relaxed);
            // Otherwise the original was returned to its queue, and is tried again, also where its task is unknown.
            let is_to_be_settled = matches!(error, SettleError::Lost) && !is_release && !is_unknown(&told);
            let unheard = is_to_be_settled.then_some(Unheard::Untold(told, fate));
            let error = chain(&error);
            let (id, task, queue) = (&job.id, &job.task, &job.queue);
            tracing::warn!(target: "leveret", %id, %task, %queue, %error, "job could not be settled, and will be delivered again");
            settling.ended(None);
            shared.events.emit(|| JobEvent::SettleFailed { job, error });
            unheard
        }
    }
}

/// Settles a delivery whose job has ended on an earlier delivery. Returns what to remember in case this one is lost as well.
pub(crate) async fn carry_out_again(
    lane: &Lane,
    mut delivery: Delivery,
    unheard: Unheard,
) -> Option<Unheard> {
    let started = Instant::now();
    let (id, queue, worker) = (&delivery.envelope.id, &lane.queue, &lane.shared.name);
    tracing::info!(
        target: "leveret", %worker, %id, %queue,
        "job was delivered again, since its settlement had not reached the broker; it is settled without another run"
    );
    match unheard {
        Unheard::Untold(settlement, fate) => {
            // It ran: if its task is unknown again, the hour begins anew.
            delivery.envelope.headers.remove(header::UNKNOWN_SINCE);
            let decision = Decision { before: Vec::new(), settlement, fate };
            carry_out(lane, delivery, decision, started).await
        }
        Unheard::Told => {
            let settling = lane.shared.activity.settling();
            let acked = delivery.settle(Settlement::Ack).await;
            settling.ended(None);
            if let Err(error) = acked {
                tracing::warn!(target: "leveret", %queue, error = %chain(&error), "job could not be settled, and will be delivered again");
            }
            Some(Unheard::Told)
        }
    }
}

/// True if a job waits for a worker that knows its task.
fn is_unknown(settlement: &Settlement) -> bool {
    let (Settlement::Retry { reason, .. } | Settlement::DeadLetter { reason }) = settlement else {
        return false;
    };
    reason.kind == ReasonKind::UnknownTask
}

/// Reports deliveries that were lost before their jobs began. They are not settled: the broker has them back.
pub(crate) fn lost(lane: &Lane, count: u64) {
    let (worker, queue) = (&lane.shared.name, &lane.queue);
    lane.shared.tally.lost.fetch_add(count, Ordering::Relaxed);
    tracing::warn!(
        target: "leveret", %worker, %queue, count,
        "deliveries were lost before they began: their connection, channel or queue was lost, or another program has \
         taken them over; the broker delivers again those that it still has"
    );
    lane.shared.events.emit(|| JobEvent::Lost { queue: queue.clone(), count });
}

/// Publishes a reply. If that fails, the job is settled all the same: its caller has ended, or gets no reply, and another run
/// would not change that.
async fn send(broker: &dyn Broker, envelope: &Envelope, job: &JobInfo, reply: Publish) {
    let error = match broker.publish(reply).await {
        Ok(()) => return,
        Err(PublishError::TooLarge { size, limit }) => {
            // The broker's limit is lower than the client's. The reason fits.
            match wire::failure(envelope, &too_large(size, limit)) {
                Some(reply) => broker.publish(reply).await.err(),
                None => None,
            }
        }
        Err(error) => Some(error),
    };
    if let Some(error) = error {
        let error = chain(&error);
        let JobInfo { id, task, queue, .. } = job;
        tracing::warn!(target: "leveret", %id, %task, %queue, %error, "reply to a call could not be published; its caller times out");
    }
}
