//! Decides what becomes of a delivery, and has the broker do it. The only caller of [`Delivery::settle`], and never
//! middleware: where retrying is an optional hook, a failed publish of the retry loses the job.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use queue_core::broker::{Delivery, Publish};
use queue_core::clock;
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::error::chain;
use queue_core::retry;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::Name;

use crate::context::Context;
use crate::events::{JobEvent, JobInfo};
use crate::execute::{Executed, Unknown};
use crate::fetch::Lane;
use crate::reply;

/// For how long an unknown task is tried again: so long may a rolling update take.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(3600);
/// The waits in between: 1 s, 2 s, 4 s … 60 s.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);
const UNKNOWN_WAIT_CAP: Duration = Duration::from_secs(60);

/// What becomes of a delivery.
pub(crate) struct Decision {
    pub(crate) settlement: Settlement,
    /// What its caller is told, before it is settled.
    pub(crate) reply: Option<Publish>,
    /// What is told of it to those who watch the worker, where that is more than the settlement.
    pub(crate) fate: Fate,
}

/// What an acked delivery was, where it was no success.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The settlement says it all.
    AsSettled,
    /// It failed, and its caller is told.
    CallFailed(Reason),
    /// It was not run, since its caller had given up.
    Abandoned,
}

impl From<Settlement> for Decision {
    fn from(settlement: Settlement) -> Self {
        Self { settlement, reply: None, fate: Fate::AsSettled }
    }
}

/// Decides, and carries it out.
pub(crate) async fn settle(lane: &Lane, mut delivery: Delivery, executed: &Executed, started: Instant) {
    let decision = decide(lane, &mut delivery.envelope, executed);
    carry_out(lane, delivery, decision, started).await;
}

fn decide(lane: &Lane, job: &mut Envelope, executed: &Executed) -> Decision {
    let settlement = match executed {
        Executed::Ran { outcome, retry } => {
            if let Some(decision) = reply::answer(lane, job, outcome) {
                return decision;
            }
            // Should this job meet an unknown task again, its hour begins anew.
            job.headers.remove(header::UNKNOWN_SINCE);
            retry::decide(outcome, job.attempt, retry, (lane.shared.jitter)())
        }
        Executed::Unknown(what) => {
            let now = lane.shared.client.clock().now();
            let since = unknown_since(job).filter(|since| *since <= now).unwrap_or(now);
            job.headers.insert(header::UNKNOWN_SINCE, clock::to_millis(since));
            let settlement = unknown(lane, *what, job, now.duration_since(since).unwrap_or_default());
            return reply::unknown(lane, job, settlement);
        }
        Executed::CutOff | Executed::Lost => Settlement::Release,
        Executed::Abandoned => {
            return Decision { settlement: Settlement::Ack, reply: None, fate: Fate::Abandoned };
        }
    };
    settlement.into()
}

/// Carries a decision out, and tells whoever listens.
pub(crate) async fn carry_out(lane: &Lane, mut delivery: Delivery, decision: Decision, started: Instant) {
    let shared = &lane.shared;
    let Decision { settlement, reply, fate } = decision;
    if matches!(settlement, Settlement::Retry { .. } | Settlement::DeadLetter { .. }) {
        delivery.envelope.headers.insert(header::WORKER, shared.name.as_str());
    }
    let job = JobInfo::new(lane, &delivery.envelope);
    let told = settlement.clone();
    // Before the ack: a crash in between repeats the job and its reply, the other order leaves the caller without one.
    if let Some(reply) = reply {
        reply::send(lane, &delivery.envelope, &job, reply).await;
    }

    let settled = delivery.settle(settlement).await;

    let took = started.elapsed();
    match settled {
        Ok(()) => {
            count(lane, &told, &fate);
            log(&job, &told, &fate, took);
            shared.activity.ended(&lane.queue, &job.id, &told);
            shared.events.emit(|| event(job, told, fate, took));
        }
        Err(error) => {
            shared.tally.settle_failed.fetch_add(1, Ordering::Relaxed);
            let error = chain(&error);
            let (id, task, queue) = (&job.id, &job.task, &job.queue);
            tracing::warn!(target: "leveret", %id, %task, %queue, %error, "job could not be settled, and will be delivered again");
            shared.activity.ended(&lane.queue, &job.id, &Settlement::Release);
            shared.events.emit(|| JobEvent::SettleFailed { job, error });
        }
    }
}

/// Tells of deliveries that were lost before their jobs began. They are not settled: the broker has them back.
pub(crate) fn lost(lane: &Lane, count: u64) {
    let (worker, queue) = (&lane.shared.name, &lane.queue);
    lane.shared.tally.lost.fetch_add(count, Ordering::Relaxed);
    tracing::warn!(
        target: "leveret", %worker, %queue, count,
        "deliveries were lost before they began: the connection, channel or queue that brought them is gone, or another \
         program has taken them over; the broker delivers again what it still has"
    );
    lane.shared.events.emit(|| JobEvent::Lost { queue: queue.clone(), count });
}

fn unknown_since(envelope: &Envelope) -> Option<SystemTime> {
    envelope.headers.get(header::UNKNOWN_SINCE).and_then(HeaderValue::as_int).map(clock::from_millis)
}

/// What becomes of a job whose task, or whose version, has been unknown for `waited`. The attempt's number stays:
/// nobody tried.
fn unknown(lane: &Lane, what: Unknown, envelope: &Envelope, waited: Duration) -> Settlement {
    let queue = &lane.queue;
    let (what, known, correct) = match what {
        Unknown::Task => {
            let task = envelope.task.as_deref().unwrap_or_default();
            (format!("task `{task}`"), lane.plan.task_list(), "AMQP property `type`")
        }
        Unknown::Version { task, version, known } => {
            (format!("version {version} of task `{task}`"), format!("version {known}"), "header `q-version`")
        }
    };
    if waited >= UNKNOWN_FOR {
        let message = format!(
            "no worker of queue `{queue}` has known {what} for {} min; here it has {known}. Deploy a worker that \
             knows it, or correct the {correct}, and replay the job",
            waited.as_secs() / 60
        );
        return Settlement::DeadLetter { reason: Reason::new(ReasonKind::UnknownTask, message) };
    }
    let message = format!(
        "{what} is unknown to this worker of queue `{queue}`, which has {known}; a newer one may know it"
    );
    Settlement::Retry {
        // Waits of 1 s, 2 s, 4 s … end 1 s, 3 s, 7 s … after the beginning: the next is one second more than what
        // has passed.
        after: (waited + UNKNOWN_WAIT).min(UNKNOWN_WAIT_CAP),
        attempt: envelope.attempt,
        reason: Reason::new(ReasonKind::UnknownTask, message),
    }
}

fn count(lane: &Lane, settlement: &Settlement, fate: &Fate) {
    let tally = &lane.shared.tally;
    let counter = match (fate, settlement) {
        (Fate::CallFailed(_), _) => &tally.calls_failed,
        (Fate::Abandoned, _) => &tally.abandoned,
        (_, Settlement::Ack) => &tally.succeeded,
        (_, Settlement::Retry { .. }) => &tally.retried,
        (_, Settlement::DeadLetter { .. }) => &tally.dead,
        _ => &tally.released,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn log(job: &JobInfo, settlement: &Settlement, fate: &Fate, took: Duration) {
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
        (_, Settlement::DeadLetter { reason }) => {
            tracing::error!(target: "leveret", %id, %task, %queue, attempt, %reason, "job is a dead letter");
        }
        (_, Settlement::Ack) => {
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, ?took, "job succeeded");
        }
        (_, Settlement::Release) => {
            tracing::debug!(target: "leveret", %id, %task, %queue, attempt, "job was given back as it came");
        }
        _ => {}
    }
}

fn event(job: JobInfo, settlement: Settlement, fate: Fate, took: Duration) -> JobEvent {
    match (fate, settlement) {
        (Fate::CallFailed(reason), _) => JobEvent::CallFailed { job, took, reason },
        (Fate::Abandoned, _) => JobEvent::Abandoned { job },
        (_, Settlement::Ack) => JobEvent::Succeeded { job, took },
        (_, Settlement::Retry { after, reason, .. }) => JobEvent::Retried { job, took, after, reason },
        (_, Settlement::DeadLetter { reason }) => JobEvent::Dead { job, took, reason },
        _ => JobEvent::Released { job },
    }
}

impl JobInfo {
    pub(crate) fn new(lane: &Lane, envelope: &Envelope) -> Self {
        let task = match &envelope.task {
            _ if lane.plan.subscriber.is_some() => {
                Name::Borrowed(lane.plan.subscriber.as_ref().map_or("", |task| task.name()))
            }
            // Known names are static: no copy.
            Some(name) => match lane.shared.tasks.get(name.as_str()) {
                Some(task) => Name::Borrowed(task.name()),
                None => Name::Owned(name.clone()),
            },
            None => Name::Borrowed(lane.plan.fallback.as_ref().map_or("", |task| task.name())),
        };
        Self { id: envelope.id.clone(), task, queue: lane.queue.clone(), attempt: envelope.attempt }
    }
}

impl Context {
    pub(crate) fn job_info(&self) -> JobInfo {
        JobInfo {
            id: self.id.clone(),
            task: Name::Borrowed(self.task),
            queue: self.lane().queue.clone(),
            attempt: self.attempt,
        }
    }
}
