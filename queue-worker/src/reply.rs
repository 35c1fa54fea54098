//! Answers whoever called a job and waits for its reply. Called by `settle`, which publishes nothing else and settles
//! afterwards.
//!
//! A call runs once. Its failure is told to the caller, who decides what to do about it, and is neither retried nor a
//! dead letter: a retry would answer a caller that has gone on, and a dead letter would be replayed for nobody. Only
//! what no handler here could take is different: a job of an unknown task waits for a newer worker like any other, as
//! long as that can help its caller, and forever if the caller does not say how long it waits.

use queue_core::broker::Publish;
use queue_core::call::wire;
use queue_core::envelope::Envelope;
use queue_core::error::{PublishError, chain};
use queue_core::outcome::Outcome;
use queue_core::settlement::{Reason, ReasonKind, Settlement};

use crate::events::JobInfo;
use crate::fetch::Lane;
use crate::registry::Task;
use crate::settle::{Decision, Fate};

/// Whether somebody waits for what the handler returns. A subscriber returns nothing, and may be one of many: whoever
/// published an event with a reply address gets no reply, and the event is retried like any other. So is a job whose task
/// says `reply = false`.
pub(crate) fn is_call(lane: &Lane, job: &Envelope) -> bool {
    // In this order: most jobs have no address, and cost no more.
    wire::is_call(job)
        && lane.plan.subscriber.is_none()
        && task_of(lane, job).is_none_or(|task| task.options.replies)
}

/// The task of a job, if this worker knows it.
fn task_of<'lane>(lane: &'lane Lane, job: &Envelope) -> Option<&'lane Task> {
    match &job.task {
        Some(name) => lane.shared.tasks.get(name.as_str()),
        None => lane.plan.fallback.as_ref(),
    }
}

/// Whether the job's caller has given up, so that nobody would read the reply.
pub(crate) fn is_abandoned(lane: &Lane, job: &Envelope) -> bool {
    is_call(lane, job)
        && wire::deadline(job).is_some_and(|deadline| lane.shared.client.clock().now() >= deadline)
}

/// What becomes of a job that ran, or could not; `None` if nobody called it.
pub(crate) fn answer(lane: &Lane, job: &Envelope, outcome: &Outcome) -> Option<Decision> {
    if !is_call(lane, job) {
        return None;
    }
    let result = match outcome {
        Outcome::Reply(result) => result.clone(),
        Outcome::Failure(failure) => return Some(refuse(job, failure.reason.clone())),
        // A layer answered in the handler's stead: it has no result to give.
        _ => wire::nothing(job),
    };
    let (size, limit) = (result.len(), lane.shared.client.max_payload());
    if size > limit {
        return Some(refuse(job, too_large(size, limit)));
    }
    let reply = wire::result(job, result);
    Some(Decision { settlement: Settlement::Ack, reply, fate: Fate::AsSettled })
}

/// What becomes of a job whose task is unknown here. If nobody called it, it is settled like this.
pub(crate) fn unknown(lane: &Lane, job: &Envelope, settlement: Settlement) -> Decision {
    match &settlement {
        _ if !is_call(lane, job) => settlement.into(),
        // It is kept all the same. Whoever has waited for so long hears at least that it was for nothing.
        Settlement::DeadLetter { reason } => {
            Decision { reply: wire::failure(job, reason), ..settlement.into() }
        }
        Settlement::Retry { after, reason, .. } => {
            let next = lane.shared.client.clock().now().checked_add(*after);
            match (wire::deadline(job), next) {
                // The next attempt would find the caller gone.
                (Some(deadline), Some(next)) if next >= deadline => refuse(job, reason.clone()),
                _ => settlement.into(),
            }
        }
        _ => settlement.into(),
    }
}

fn refuse(job: &Envelope, reason: Reason) -> Decision {
    let reply = wire::failure(job, &reason);
    Decision { settlement: Settlement::Ack, reply, fate: Fate::CallFailed(reason) }
}

fn too_large(size: usize, limit: usize) -> Reason {
    let words = format!(
        "the reply has {size} bytes, over the limit of {limit}; store it elsewhere and reply with its address"
    );
    Reason::new(ReasonKind::Permanent, words)
}

/// Publishes a reply. One that cannot be published does not keep the job: its caller has gone, or will hear nothing,
/// and to run the job again would not change that.
pub(crate) async fn send(lane: &Lane, envelope: &Envelope, job: &JobInfo, reply: Publish) {
    let broker = lane.shared.client.broker();
    let error = match broker.publish(reply).await {
        Ok(()) => return,
        Err(PublishError::TooLarge { size, limit }) => {
            // The broker takes less than the client was told. What fits is the reason.
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
        tracing::warn!(target: "leveret", %id, %task, %queue, %error, "the reply to a call was not published; its caller will wait in vain");
    }
}
