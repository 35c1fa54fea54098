//! Reports a delivery that the broker has settled: to the summary, the log, and the worker's events.

use std::sync::atomic::Ordering;
use std::time::Duration;

use queue_core::clock::Clock;
use queue_core::settlement::{ReasonKind, Settlement};
use queue_core::topology::QueueSpec;

use crate::decide::Fate;
use crate::events::{JobEvent, JobInfo, Tally};

/// Counts the settled delivery in the worker's summary.
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

/// Logs the settled delivery. The lines name the job themselves, and so stand outside of its span: a log for people would print
/// the dozen fields of the span behind each of them.
pub(crate) fn log(
    job: &JobInfo,
    spec: &QueueSpec,
    settlement: &Settlement,
    fate: &Fate,
    took: Duration,
    clock: &Clock,
) {
    let JobInfo { id, task, queue, attempt } = job;
    let took = short(took);
    match (fate, settlement) {
        (Fate::CallFailed(reason), _) => {
            tracing::warn!(target: "leveret", parent: None, %task, %queue, %id, attempt, %reason, "call failed, and its caller was told");
        }
        (Fate::Abandoned, _) => {
            tracing::warn!(target: "leveret", parent: None, %task, %queue, %id, "call was not run, since its caller had given up: no worker took it in time; run more workers, or let callers wait longer");
        }
        (_, Settlement::Retry { after, reason, .. }) if reason.kind == ReasonKind::UnknownTask => {
            tracing::warn!(target: "leveret", parent: None, %task, %queue, %id, attempt, after = ?short(*after), %reason, "job did not run here, and waits for a worker that can run it");
        }
        (_, Settlement::Retry { after, reason, .. }) => {
            tracing::warn!(target: "leveret", parent: None, %task, %queue, %id, attempt, ?took, after = ?short(*after), %reason, "job failed, and runs again");
        }
        (_, Settlement::Snooze { until }) => {
            let after = || short(until.duration_since(clock.now()).unwrap_or_default());
            tracing::debug!(target: "leveret", parent: None, %task, %queue, %id, attempt, after = ?after(), "job is snoozed, and comes again");
        }
        (_, Settlement::DeadLetter { reason }) => {
            let kept_in = spec.dead_queue();
            let kept_in = kept_in.as_ref().map(tracing::field::display);
            tracing::error!(target: "leveret", parent: None, %task, %queue, %id, attempt, ?took, kept_in, %reason, "job is a dead letter");
        }
        (_, Settlement::Ack) => {
            tracing::debug!(target: "leveret", parent: None, %task, %queue, %id, attempt, ?took, "job succeeded");
        }
        (_, Settlement::Release) => {
            tracing::debug!(target: "leveret", parent: None, %task, %queue, %id, attempt, "job went back to its queue unchanged");
        }
        (_, Settlement::Move { queue: to, .. }) => {
            tracing::debug!(target: "leveret", parent: None, %task, %queue, %id, attempt, %to, "job was moved");
        }
        _ => {}
    }
}

/// Rounds a duration for people: 1.187 s, 12.345 ms.
fn short(duration: Duration) -> Duration {
    let micros = duration.as_micros() as u64;
    if duration < Duration::from_secs(1) {
        Duration::from_micros(micros)
    } else {
        Duration::from_millis(micros / 1000)
    }
}

/// The event of the settled delivery.
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
