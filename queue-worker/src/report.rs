//! Tells what became of a delivery, once the broker has settled it: the summary, the log, and those who watch the worker.

use std::sync::atomic::Ordering;
use std::time::Duration;

use queue_core::clock::Clock;
use queue_core::settlement::{ReasonKind, Settlement};

use crate::decide::Fate;
use crate::events::{JobEvent, JobInfo, Tally};

/// Adds it to the worker's summary.
pub(crate) fn count(tally: &Tally, settlement: &Settlement, fate: &Fate) {
    let counter = match (fate, settlement) {
        (Fate::CallFailed(_), _) => &tally.calls_failed,
        (Fate::Abandoned, _) => &tally.abandoned,
        (_, Settlement::Ack) => &tally.succeeded,
        (_, Settlement::Retry { .. }) => &tally.retried,
        (_, Settlement::Snooze { .. }) => &tally.snoozed,
        (_, Settlement::DeadLetter { .. }) => &tally.dead,
        _ => &tally.released,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Writes it to the log.
pub(crate) fn log(job: &JobInfo, settlement: &Settlement, fate: &Fate, took: Duration, clock: &Clock) {
    let JobInfo { id, task, queue, attempt } = job;
    match (fate, settlement) {
        (Fate::CallFailed(reason), _) => {
            tracing::warn!(target: "leveret", %id, %task, %queue, attempt, %reason, "call failed, and its caller was told");
        }
        (Fate::Abandoned, _) => {
            tracing::warn!(target: "leveret", %id, %task, %queue, "call was not run, since its caller had given up: the queue is longer than callers wait");
        }
        (_, Settlement::Retry { after, reason, .. }) if reason.kind == ReasonKind::UnknownTask => {
            tracing::warn!(target: "leveret", %id, %task, %queue, attempt, ?after, %reason, "job did not run here, and waits for a worker that can run it");
        }
        (_, Settlement::Retry { after, reason, .. }) => {
            tracing::warn!(target: "leveret", %id, %task, %queue, attempt, ?took, ?after, %reason, "job failed, and runs again");
        }
        (_, Settlement::Snooze { until }) => {
            let after = || until.duration_since(clock.now()).unwrap_or_default();
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, after = ?after(), "job is snoozed, and comes again");
        }
        (_, Settlement::DeadLetter { reason }) => {
            tracing::error!(target: "leveret", %id, %task, %queue, attempt, %reason, "job is a dead letter");
        }
        (_, Settlement::Ack) => {
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, ?took, "job succeeded");
        }
        (_, Settlement::Release) => {
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, "job was given back as it came");
        }
        (_, Settlement::Move { queue: to, .. }) => {
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, %to, "job was moved");
        }
        _ => {}
    }
}

/// The news of it, for whoever watches the worker.
pub(crate) fn event(job: JobInfo, settlement: Settlement, fate: Fate, took: Duration) -> JobEvent {
    match (fate, settlement) {
        (Fate::CallFailed(reason), _) => JobEvent::CallFailed { job, took, reason },
        (Fate::Abandoned, _) => JobEvent::Abandoned { job },
        (_, Settlement::Ack) => JobEvent::Succeeded { job, took },
        (_, Settlement::Retry { after, reason, .. }) => JobEvent::Retried { job, took, after, reason },
        (_, Settlement::Snooze { until }) => JobEvent::Snoozed { job, took, until },
        (_, Settlement::DeadLetter { reason }) => JobEvent::Dead { job, took, reason },
        _ => JobEvent::Released { job },
    }
}
