//! The way of one delivery through the worker: is it known (`repeat`), may it end the process (`suspect`), its task
//! (`errand`), the handler's run (`execute`), and its settlement (`decide`, `settle`).

use std::sync::Arc;
use std::time::Instant;

use queue_core::broker::Delivery;
use queue_core::envelope::{Headers, header};
use tracing::Instrument;

use crate::context::{Context, Run};
use crate::decide::{Here, decide};
use crate::errand::{Errand, Kind};
use crate::execute::{Executed, execute};
use crate::lane::{Lane, Shared};
use crate::repeat::{Key, Met, Running, Unheard};
use crate::settle;
use crate::slots::Slot;
use crate::span;
use crate::suspect::inspect::{Inspected, Place, clear, give_back, inspect};
use crate::suspect::record::Record;
use crate::suspect::turn::Turn;

/// A delivery that is neither lost nor known.
pub(crate) struct Arrived {
    pub(crate) delivery: Delivery,
    /// Names the errand; `None` where it cannot be recognised again.
    pub(crate) key: Option<Key>,
    pub(crate) started: Instant,
}

/// Takes one delivery through the worker, and returns its result once it is settled.
pub(crate) async fn process(lane: &Arc<Lane>, slot: Slot, delivery: Delivery) -> Executed {
    let mut arrived = match arrive(lane, delivery).await {
        Ok(arrived) => arrived,
        Err(executed) => return executed,
    };
    let mut turn = None;
    if Record::is_there(&arrived.delivery) {
        // Seldom, and as large as the rest.
        match Box::pin(inspect(lane, Place::Own, arrived.delivery, None)).await {
            Inspected::Run(delivery, taken) => {
                arrived.delivery = delivery;
                turn = taken;
            }
            Inspected::Settled(executed) => return executed,
            Inspected::Marked(_) | Inspected::Left => return Executed::SetApart,
        }
    }
    run(lane, slot, arrived, turn.as_ref(), Place::Own).await
}

/// Drops a delivery that is lost, and settles one that is known, or has it settled by the run that it repeats.
///
/// # Errors
/// The result of a delivery that needs no further processing.
pub(crate) async fn arrive(lane: &Lane, mut delivery: Delivery) -> Result<Arrived, Executed> {
    let shared = &lane.shared;
    let started = Instant::now();
    // This task may have waited long for a thread.
    if delivery.is_lost() {
        shared.activity.ended(None);
        settle::lost(lane, 1);
        return Err(Executed::Lost);
    }
    // Where acks are not lost, a delivery comes again only when another worker may have it.
    let may_come_again = delivery.redelivered || delivery.ack_may_be_lost();
    let key = may_come_again.then(|| Key::of(&delivery.envelope)).flatten();
    if delivery.redelivered
        && let Some(key) = &key
    {
        match lane.repeats.meet(key, delivery) {
            Met::New(new) => delivery = new,
            Met::Running => {
                tracing::info!(
                    target: "leveret", worker = %shared.name, id = %key.id(), queue = %lane.queue,
                    "job was delivered again while it runs here; what settles it settles this delivery, too"
                );
                shared.activity.ended(None);
                return Err(Executed::Repeated);
            }
            Met::Ended(delivery, unheard) => {
                Box::pin(settle_again(lane, key, delivery, unheard)).await;
                return Err(Executed::Repeated);
            }
        }
    }
    Ok(Arrived { delivery, key, started })
}

/// Runs a delivery's job, alone if it has a turn, and settles it.
pub(crate) async fn run(
    lane: &Arc<Lane>,
    slot: Slot,
    arrived: Arrived,
    turn: Option<&Turn>,
    place: Place,
) -> Executed {
    let Arrived { mut delivery, key, started } = arrived;
    let shared = &lane.shared;
    let repeating = lane.repeats.begin(key);
    let errand = Errand::of(&lane.plan, &shared.tasks, &delivery.envelope);
    let kind = errand.kind;
    let task = if errand.is_abandoned(&delivery.envelope, || shared.client.clock().now()) {
        Err(Executed::Abandoned)
    } else {
        errand.task.map_err(Executed::from)
    };
    let task = match task {
        Ok(task) => task,
        Err(executed) => {
            settle(lane, kind, delivery, &executed, started, &repeating).await;
            return executed;
        }
    };
    if kind == Kind::Event {
        remember_origin(&mut delivery);
    }
    let span = span::span(shared.system, task.name(), &delivery);
    let has_record = turn.is_some() || Record::is_there(&delivery);
    let run = Run {
        task: task.name(),
        timeout: task.options.timeout,
        is_event: kind == Kind::Event,
        is_call: kind == Kind::Call,
        started,
    };
    let context = Arc::new(Context::new(Arc::clone(&lane.environment), slot, run, &mut delivery));
    if !context.has_stable_id() {
        lane.tell_of_no_id();
    }
    let payload = delivery.envelope.payload.clone();

    let Shared { handler, events, activity, .. } = &**shared;
    let executed = {
        let execution = execute(&context, task, payload, handler, events, activity, repeating.note())
            .instrument(span.clone());
        tokio::pin!(execution);
        match turn {
            None => execution.await,
            Some(turn) => turn.during(execution).await,
        }
    };
    if let Executed::Ran { outcome, .. } = &executed {
        span::record(&span, outcome);
    }
    if has_record {
        if turn.is_some() && matches!(executed, Executed::CutOff) {
            give_back(lane, place, delivery, started).instrument(span).await;
            return executed;
        }
        clear(&mut delivery.envelope.headers);
    }
    settle(lane, kind, delivery, &executed, started, &repeating).instrument(span).await;
    // The context holds the slot, and so it stays taken until the job is settled.
    drop(context);
    executed
}

/// Decides about a delivery and settles it, and also deliveries of the same errand that arrived while it ran.
async fn settle(
    lane: &Lane,
    kind: Kind,
    mut delivery: Delivery,
    executed: &Executed,
    started: Instant,
    running: &Running<'_>,
) {
    let client = &lane.shared.client;
    let here = Here {
        queue: &lane.plan,
        clock: client.clock(),
        max_payload: client.max_payload(),
        jitter: lane.shared.jitter,
    };
    if delivery.is_lost()
        && let Some(newer) = running.take_latest()
    {
        delivery = newer;
        clear(&mut delivery.envelope.headers);
        if kind == Kind::Event {
            remember_origin(&mut delivery);
        }
    }
    let decision = decide(&here, kind, &mut delivery.envelope, executed);
    let unheard = settle::carry_out(lane, delivery, decision, started).await;
    let (Some(key), Some(unheard)) = (running.key(), unheard) else { return };
    lane.repeats.note_ended(key.clone(), unheard);
    while let Some(held) = running.take_last() {
        // The errand is remembered until one delivery has been settled for it.
        let Some(unheard) = lane.repeats.take_ended(key) else { continue };
        // It was counted as ended when it was held.
        lane.shared.activity.began(&lane.queue, &held.envelope);
        Box::pin(settle_again(lane, key, held, unheard)).await;
    }
}

/// Settles a delivery of an errand that has ended. Boxed by its callers: it is rare, and would enlarge each job's future.
async fn settle_again(lane: &Lane, key: &Key, mut delivery: Delivery, unheard: Unheard) {
    // The job has ended, whatever other workers have recorded since.
    clear(&mut delivery.envelope.headers);
    if lane.plan.subscriber.is_some() {
        remember_origin(&mut delivery);
    }
    if let Some(unheard) = settle::carry_out_again(lane, delivery, unheard).await {
        lane.repeats.note_ended(key.clone(), unheard);
    }
}

/// Records the origin of an event in headers, since its retries go to the subscriber's queue alone.
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
