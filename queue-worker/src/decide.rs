//! Decides about a delivery: its settlement, and the messages to publish before. Knows no broker and changes only the
//! envelope; `settle` carries it out.

use std::time::{Duration, SystemTime};

use queue_core::broker::Publish;
use queue_core::call::wire;
use queue_core::clock::{self, Clock};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::outcome::Outcome;
use queue_core::retry;
use queue_core::settlement::{Reason, ReasonKind, Settlement};

use crate::errand::{Kind, Unknown};
use crate::execute::Executed;
use crate::registry::Queue;

/// How long an unknown task is tried again: the longest rolling update that is supported.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(3600);
/// The waits in between: 1 s, 2 s, 4 s … 60 s.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);
const UNKNOWN_WAIT_CAP: Duration = Duration::from_secs(60);

/// A decision about a delivery.
pub(crate) struct Decision {
    /// The messages to publish before it is settled: the reply to its caller. A crash in between repeats the job and its reply;
    /// the other order would leave the caller without one.
    pub(crate) before: Vec<Publish>,
    pub(crate) settlement: Settlement,
    /// The worker's report of it.
    pub(crate) fate: Fate,
}

/// The worker's report of a delivery beyond its settlement: an acked delivery need not be a success.
#[derive(Debug)]
pub(crate) enum Fate {
    /// As the settlement says.
    AsSettled,
    /// It failed, and its caller is told.
    CallFailed(Reason),
    /// It was not run, since its caller had given up.
    Abandoned,
}

impl From<Settlement> for Decision {
    fn from(settlement: Settlement) -> Self {
        Self { before: Vec::new(), settlement, fate: Fate::AsSettled }
    }
}

/// The worker's side of a decision.
pub(crate) struct Here<'worker> {
    /// The queue that it came from.
    pub(crate) queue: &'worker Queue,
    pub(crate) clock: &'worker Clock,
    /// The largest reply, in bytes.
    pub(crate) max_payload: usize,
    /// A random number from 0 to 1; a constant in users' tests.
    pub(crate) jitter: fn() -> f64,
}

/// Decides about a delivery by its result.
pub(crate) fn decide(here: &Here<'_>, kind: Kind, job: &mut Envelope, executed: &Executed) -> Decision {
    let settlement = match executed {
        Executed::Ran { outcome, retry } => {
            if kind == Kind::Call {
                return answer(here, job, outcome);
            }
            // If its task is unknown again, the hour begins anew.
            job.headers.remove(header::UNKNOWN_SINCE);
            retry::decide(outcome, job.attempt, retry, (here.jitter)(), || here.clock.now())
        }
        Executed::Unknown(what) => {
            let now = here.clock.now();
            let since = unknown_since(job).filter(|since| *since <= now).unwrap_or(now);
            job.headers.insert(header::UNKNOWN_SINCE, clock::to_millis(since));
            let settlement = unknown(here, *what, job, now.duration_since(since).unwrap_or_default());
            return if kind == Kind::Call { tell_unknown(here, job, settlement) } else { settlement.into() };
        }
        Executed::CutOff | Executed::Lost | Executed::Repeated | Executed::SetApart => Settlement::Release,
        Executed::Abandoned => {
            return Decision { fate: Fate::Abandoned, ..Settlement::Ack.into() };
        }
    };
    settlement.into()
}

/// Decides about a call that ran, or whose message does not decode. The caller gets the failure and decides what to do. A failed
/// call is neither retried nor a dead letter: a retry would answer a caller that no longer waits, and so would the replay of a
/// dead letter.
fn answer(here: &Here<'_>, job: &Envelope, outcome: &Outcome) -> Decision {
    let result = match outcome {
        Outcome::Reply(result) => result.clone(),
        Outcome::Snooze { after } => return put_off(here, job, *after),
        Outcome::Failure(failure) => return refuse(job, failure.reason.clone()),
        // A layer answered instead of the handler, and has no result.
        _ => wire::nothing(job),
    };
    let (size, limit) = (result.len(), here.max_payload);
    if size > limit {
        return refuse(job, too_large(size, limit));
    }
    let before = wire::result(job, result).into_iter().collect();
    Decision { before, ..Settlement::Ack.into() }
}

/// Snoozes a call, as long as its caller still waits at its next run. Otherwise the caller is told at once.
fn put_off(here: &Here<'_>, job: &Envelope, after: Duration) -> Decision {
    let settlement = retry::snooze(after, here.clock.now());
    match (wire::deadline(job), &settlement) {
        (Some(deadline), Settlement::Snooze { until }) if *until >= deadline => {
            let words = format!("not now, but in {after:?}, when its caller no longer waits");
            refuse(job, Reason::new(ReasonKind::Failed, words))
        }
        _ => settlement.into(),
    }
}

/// Decides about a call whose task is unknown here, given the settlement that a job would get. The call waits for a newer worker
/// as a job does, as long as its caller waits, and like a job if the caller does not say how long it waits.
fn tell_unknown(here: &Here<'_>, job: &Envelope, settlement: Settlement) -> Decision {
    match &settlement {
        // It is kept as a dead letter all the same. A caller that still waits gets the error.
        Settlement::DeadLetter { reason } => {
            Decision { before: wire::failure(job, reason).into_iter().collect(), ..settlement.into() }
        }
        Settlement::Retry { after, reason, .. } => {
            let next = here.clock.now().checked_add(*after);
            match (wire::deadline(job), next) {
                // The next attempt would find the caller gone.
                (Some(deadline), Some(next)) if next >= deadline => refuse(job, reason.clone()),
                _ => settlement.into(),
            }
        }
        _ => settlement.into(),
    }
}

/// Tells a caller why it gets no result.
pub(crate) fn refuse(job: &Envelope, reason: Reason) -> Decision {
    let before = wire::failure(job, &reason).into_iter().collect();
    Decision { before, settlement: Settlement::Ack, fate: Fate::CallFailed(reason) }
}

/// The reason why a caller gets no reply of this size.
pub(crate) fn too_large(size: usize, limit: usize) -> Reason {
    let words = format!(
        "the reply has {size} bytes, over the limit of {limit}; store it elsewhere and reply with its address"
    );
    Reason::new(ReasonKind::Permanent, words)
}

fn unknown_since(envelope: &Envelope) -> Option<SystemTime> {
    envelope.headers.get(header::UNKNOWN_SINCE).and_then(HeaderValue::as_int).map(clock::from_millis)
}

/// Decides about a job whose task or version has been unknown for `waited`. The attempt's number stays, since the job was not
/// tried.
fn unknown(here: &Here<'_>, what: Unknown, envelope: &Envelope, waited: Duration) -> Settlement {
    let queue = here.queue.spec.name();
    let (what, known, correct) = match what {
        Unknown::Task => {
            let task = envelope.task.as_deref().unwrap_or_default();
            (format!("task `{task}`"), here.queue.task_list(), "AMQP property `type`")
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
