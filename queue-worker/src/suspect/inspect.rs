//! Inspects a delivery whose earlier holders were lost: lets it run, sets it apart, lets it run alone, or makes it a dead letter.
//! Called by `process` and `apart` before a job begins.

use std::time::{Duration, Instant};

use queue_core::broker::{Delivery, Returns};
use queue_core::envelope::{Headers, header};
use queue_core::error::chain;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::Name;

use super::record::{Mark, Record};
use super::turn::Turn;
use crate::decide::{Decision, refuse};
use crate::errand::{Errand, Kind};
use crate::execute::Executed;
use crate::lane::Lane;
use crate::settle;

/// How long a job is left to the process that may run it.
pub(crate) const LEFT: Duration = Duration::from_secs(10);
/// How long a job without a timeout is left to a process that lives and may have lost it.
const MAY_RUN: Duration = Duration::from_secs(3600);
/// The number of lost holders that makes a job a dead letter where the broker can neither mark a job nor set it apart. RabbitMQ's
/// quorum queues have the same limit.
const WITHOUT_MARKS: u64 = 100;

/// The queue of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The queue of its task.
    Own,
    /// The queue beside it, where jobs wait that are to run alone.
    Apart,
}

/// The next step of an inspected delivery.
#[allow(clippy::large_enum_variant, reason = "a suspect is rare, and this is moved twice")]
pub(crate) enum Inspected {
    /// It runs, alone if it has a turn.
    Run(Delivery, Option<Turn>),
    /// It is settled. It runs later, elsewhere, or never.
    Settled(Executed),
    /// Its marked copy comes next, and runs with this turn.
    Marked(Turn),
    /// It was given back, for other workers. It must not be fetched again at once.
    Left,
}

/// Decides about a delivery, and carries that out. `turn` is that of its mark.
pub(crate) async fn inspect(
    lane: &Lane,
    place: Place,
    mut delivery: Delivery,
    turn: Option<Turn>,
) -> Inspected {
    if lane.suspects.is_exclusive() {
        return Inspected::Run(delivery, None);
    }
    let record = Record::of(&delivery);
    let is_suspect =
        place == Place::Apart || record.crashes >= u64::from(lane.crash_limit) || !record.marks.is_empty();
    if place == Place::Own {
        if !is_suspect && !record.is_uncounted {
            // It may be the copy of a job that this worker moves at this moment, and may end the process: not before the broker
            // knows that the original is gone.
            lane.moves.wait().await;
            if delivery.is_lost() {
                return lost(lane);
            }
            return Inspected::Run(delivery, None);
        }
        if is_suspect && let Some(apart) = lane.suspects.declared(&lane.shared.client).await.cloned() {
            return set_apart(lane, delivery, &record, apart).await;
        }
        if record.is_uncounted {
            // So that the next holder knows the count. The job comes again as a new message.
            return moved(lane, delivery, lane.queue.clone(), record.headers()).await;
        }
    }
    // Kept by every copy that is made of it.
    let crashes = i64::try_from(record.crashes).unwrap_or(i64::MAX);
    delivery.envelope.headers.insert(header::CRASHES, crashes);
    alone(lane, place, delivery, record, turn).await
}

/// Lets a suspect run alone, if it has not ended too many processes yet.
async fn alone(
    lane: &Lane,
    place: Place,
    mut delivery: Delivery,
    mut record: Record,
    turn: Option<Turn>,
) -> Inspected {
    let name = match can_mark(lane, place).await {
        Some(name) => name,
        None if record.crashes >= WITHOUT_MARKS => return dead(lane, delivery, &record).await,
        None => return begin(lane, place, delivery, turn).await,
    };
    let is_marked = match record.marks.last() {
        None => false,
        // It counts as begun only now that nothing else runs: otherwise another job could end the process under its mark.
        Some(last) if record.is_first && last.process == name && turn.is_some() => true,
        // A run that has not begun, or that lost only its connection.
        Some(last) if record.is_first && place == Place::Apart || last.process == name => {
            record.marks.pop();
            if place == Place::Apart && turn.is_none() {
                // Its message must not carry the mark while it waits: another job may end this process.
                let Some(apart) = lane.suspects.name().cloned() else {
                    return leave(lane, place, delivery, LEFT).await;
                };
                return moved(lane, delivery, apart, record.headers()).await;
            }
            false
        }
        Some(last) => match fate(lane, &delivery, last).await {
            Fate::Ended => false,
            Fate::Lives => return leave(lane, place, delivery, LEFT).await,
            Fate::LetGo => {
                record.marks.pop();
                false
            }
        },
    };
    let ended = record.marks.len() - usize::from(is_marked);
    if ended >= lane.crash_limit as usize {
        record.marks.truncate(ended);
        return dead(lane, delivery, &record).await;
    }
    if is_marked && let Some(mut turn) = turn {
        // A queue may have taken one more job at the moment at which the turn was taken.
        if turn.is_alone(&lane.shared.jobs, 0).await {
            return Inspected::Run(delivery, Some(turn));
        }
        return leave(lane, place, delivery, LEFT).await;
    }
    let turn = match begin(lane, place, delivery, turn).await {
        Inspected::Run(begun, Some(turn)) => {
            delivery = begun;
            turn
        }
        other => return other,
    };
    let worker = lane.shared.name.clone();
    record.marks.push(Mark { process: name, at: lane.shared.client.clock().now(), worker });
    if place == Place::Apart {
        let Some(apart) = lane.suspects.name().cloned() else {
            return leave(lane, place, delivery, LEFT).await;
        };
        return match moved(lane, delivery, apart, record.headers()).await {
            Inspected::Settled(_) => Inspected::Marked(turn),
            failed => failed,
        };
    }
    match delivery.mark(header::BEGUN, record.list()).await {
        Ok(false) if record.crashes >= WITHOUT_MARKS => {
            record.marks.clear();
            dead(lane, delivery, &record).await
        }
        Ok(_) => Inspected::Run(delivery, Some(turn)),
        Err(_) => lost(lane),
    }
}

/// The name of this process, where a run can be marked and other workers can look up its process.
async fn can_mark(lane: &Lane, place: Place) -> Option<String> {
    let broker = lane.shared.client.broker();
    if place == Place::Own && broker.suspects_of(&lane.queue).is_some() {
        return None;
    }
    broker.liveness()?.name().await.ok()
}

/// The state of the process of a run that was begun.
enum Fate {
    Ended,
    /// It lives, and may still run the job; or its state is unknown.
    Lives,
    /// It lives, and cannot run the job any more.
    LetGo,
}

async fn fate(lane: &Lane, delivery: &Delivery, mark: &Mark) -> Fate {
    let Some(liveness) = lane.shared.client.broker().liveness() else { return Fate::Lives };
    let (id, queue, worker) = (&delivery.envelope.id, &lane.queue, &mark.worker);
    let answer = tokio::select! {
        biased;
        () = lane.shared.steps.stopping() => return Fate::Lives,
        answer = liveness.is_alive(&mark.process) => answer,
    };
    match answer {
        Ok(false) => {
            tracing::warn!(target: "leveret", %id, %queue, %worker, "the process of a worker has ended while it ran this job alone");
            Fate::Ended
        }
        Ok(true) => {
            let errand = Errand::of(&lane.plan, &lane.shared.tasks, &delivery.envelope);
            let timeout = errand.task.ok().and_then(|task| task.options.timeout).unwrap_or(MAY_RUN);
            let age = lane.shared.client.clock().now().duration_since(mark.at).unwrap_or_default();
            if age > timeout {
                return Fate::LetGo;
            }
            tracing::info!(target: "leveret", %id, %queue, %worker, "job is left to its worker, whose process lives");
            Fate::Lives
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(target: "leveret", %id, %queue, %worker, %error, "broker does not tell if the worker of this job lives; the job waits");
            Fate::Lives
        }
    }
}

/// Takes the turn, unless the marked copy has it, and waits until the job is alone.
async fn begin(lane: &Lane, place: Place, delivery: Delivery, turn: Option<Turn>) -> Inspected {
    let (turns, steps) = (&lane.shared.turns, &lane.shared.steps);
    let mut turn = match (turn, place) {
        (Some(turn), _) => return Inspected::Run(delivery, Some(turn)),
        (None, Place::Own) => match turns.try_take() {
            Some(turn) => turn,
            None => {
                // It comes again when the queues go on: also beside a long job that still has the turn.
                let pause = if turns.is_wanted() { Duration::ZERO } else { LEFT };
                return leave(lane, place, delivery, pause).await;
            }
        },
        (None, Place::Apart) => tokio::select! {
            biased;
            () = steps.stopping() => return leave(lane, place, delivery, Duration::ZERO).await,
            turn = turns.take() => turn,
        },
    };
    // A job in its own queue is already counted as running.
    let own = usize::from(place == Place::Own);
    let is_alone = tokio::select! {
        biased;
        () = steps.stopping() => return leave(lane, place, delivery, Duration::ZERO).await,
        is_alone = turn.is_alone(&lane.shared.jobs, own) => is_alone,
    };
    if !is_alone {
        let (id, queue) = (&delivery.envelope.id, &lane.queue);
        tracing::warn!(target: "leveret", %id, %queue, "job must run alone, but other jobs do not end; it waits, and the others go on meanwhile");
        drop(turn);
        return leave(lane, place, delivery, LEFT).await;
    }
    if delivery.is_lost() {
        return lost(lane);
    }
    let (id, queue, worker) = (&delivery.envelope.id, &lane.queue, &lane.shared.name);
    tracing::info!(target: "leveret", %id, %queue, %worker, "the job runs alone, since the processes that held it before have ended");
    Inspected::Run(delivery, Some(turn))
}

/// Moves a job into the queue where it waits to run alone.
async fn set_apart(lane: &Lane, delivery: Delivery, record: &Record, apart: Name) -> Inspected {
    let (id, queue, crashes) = (&delivery.envelope.id, &lane.queue, record.crashes);
    tracing::warn!(
        target: "leveret", %id, %queue, crashes, %apart,
        "job was in hand each time that a process or its connection was lost; it is set apart, and runs alone"
    );
    let inspected = moved(lane, delivery, apart, record.headers()).await;
    lane.suspects.fill();
    inspected
}

async fn moved(lane: &Lane, delivery: Delivery, queue: Name, headers: Headers) -> Inspected {
    let settlement = Settlement::Move { queue, headers };
    let _moves = lane.moves.token();
    if settle::is_moved(lane, delivery, settlement).await {
        Inspected::Settled(Executed::SetApart)
    } else {
        // It was given back, and must not come again at once.
        Inspected::Left
    }
}

/// Gives a job back. A job in its own queue is put off for a while, or it would come again at once.
async fn leave(lane: &Lane, place: Place, delivery: Delivery, pause: Duration) -> Inspected {
    if place == Place::Apart && delivery.returns == Returns::Never {
        // The run of its mark, if it has one, has not begun.
        give_back(lane, place, delivery, Instant::now()).await;
        return Inspected::Left;
    }
    let settlement = if place == Place::Own && !pause.is_zero() {
        let now = lane.shared.client.clock().now();
        Settlement::Snooze { until: now.checked_add(pause).unwrap_or(now) }
    } else {
        Settlement::Release
    };
    settle::carry_out(lane, delivery, settlement.into(), Instant::now()).await;
    match place {
        Place::Own => Inspected::Settled(Executed::SetApart),
        Place::Apart => Inspected::Left,
    }
}

fn lost(lane: &Lane) -> Inspected {
    lane.shared.activity.ended(None);
    settle::lost(lane, 1);
    Inspected::Settled(Executed::Lost)
}

/// Makes a job that has ended too many processes a dead letter.
async fn dead(lane: &Lane, mut delivery: Delivery, record: &Record) -> Inspected {
    let (alone, crashes) = (record.marks.len(), record.crashes);
    let which = if alone == 0 {
        format!(
            "{crashes} times a process was lost that held the job, and it cannot be seen which job ended it"
        )
    } else {
        let words = record.words();
        format!(
            "the process of a worker has ended each time that it ran this job alone, {alone} times ({words})"
        )
    };
    let message = format!(
        "{which}. It runs no more: look how the process ended (abort, stack overflow, out of memory), mend the task, and replay \
         the job"
    );
    let reason = Reason::new(ReasonKind::CrashLoop, message);
    clear(&mut delivery.envelope.headers);
    let errand = Errand::of(&lane.plan, &lane.shared.tasks, &delivery.envelope);
    let decision = match errand.kind {
        Kind::Call => refuse(&delivery.envelope, reason),
        _ => Decision::from(Settlement::DeadLetter { reason }),
    };
    settle::carry_out(lane, delivery, decision, Instant::now()).await;
    Inspected::Settled(Executed::SetApart)
}

/// Gives back a job whose run alone has not begun, or was cut off. Its mark must not count. In its own queue the broker removes the
/// mark; on a copy that was never held it does not.
pub(crate) async fn give_back(lane: &Lane, place: Place, delivery: Delivery, started: Instant) {
    let is_marked = delivery.envelope.headers.get(header::BEGUN).is_some();
    let settlement = match lane.suspects.name().cloned() {
        Some(queue) if place == Place::Apart && is_marked => {
            Settlement::Move { queue, headers: Headers::new() }
        }
        _ => Settlement::Release,
    };
    settle::carry_out(lane, delivery, settlement.into(), started).await;
}

/// Removes the record of lost holders: the job has ended, and no process with it.
pub(crate) fn clear(headers: &mut Headers) {
    headers.remove(header::CRASHES);
    headers.remove(header::BEGUN);
}
