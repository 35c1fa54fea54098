//! Waits until a worker has nothing left to do, for `run_until_idle`.
//!
//! Where the broker counts everything (memory, SQLite), idle is exact: in none of the worker's queues is a job
//! ready, unsettled (by any worker) or delayed. RabbitMQ counts only ready jobs. There, idle means that no job is
//! ready, none runs here, no retry or snoozed job of this worker is outstanding, and all that stays so for
//! [`QUIET`]; the worker does not wait for jobs that others have delayed or hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use queue_core::error::{ErrorKind, Result};

use crate::activity::Activity;
use crate::lane::Lane;

/// How long a queue must stay quiet whose unsettled jobs the broker does not count. Longer than a delivery is under way.
const QUIET: Duration = Duration::from_millis(300);
/// The pause between two looks at the queues while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The result of one look at all queues.
enum Look {
    Busy,
    /// The broker counts no job, but does not count all.
    Quiet,
    Empty,
}

/// Waits until the worker of these lanes is idle. Cancel safe.
///
/// # Errors
/// If the client is closed, or its broker shows no queues to operators.
pub(crate) async fn until_idle(activity: &Activity, lanes: &[Arc<Lane>]) -> Result<()> {
    let mut quiet_since: Option<((u64, u64), Instant)> = None;
    loop {
        let before = activity.counts();
        let look = if before.0 == before.1 { look(lanes).await? } else { Look::Busy };
        // A job that ended while we looked may have enqueued more where we had looked already.
        let is_still = activity.counts() == before;
        match look {
            Look::Empty if is_still => return Ok(()),
            Look::Quiet if is_still && !activity.awaits_copies() => match quiet_since {
                Some((counts, since)) if counts == before => {
                    if since.elapsed() >= QUIET {
                        return Ok(());
                    }
                }
                _ => quiet_since = Some((before, Instant::now())),
            },
            _ => quiet_since = None,
        }
        tokio::select! {
            () = activity.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(lanes: &[Arc<Lane>]) -> Result<Look> {
    let mut found = Look::Empty;
    if lanes.iter().any(|lane| !lane.suspects.is_seen()) {
        return Ok(Look::Busy);
    }
    let own = lanes.iter().map(|lane| (lane, &lane.queue));
    let apart = lanes.iter().filter_map(|lane| Some((lane, lane.suspects.used()?)));
    for (lane, queue) in own.chain(apart) {
        let stats = match lane.shared.client.operator()?.inspect(queue).await {
            Ok(stats) => stats,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            // A broker that is away comes back; a queue that is gone ends its consumer, and so the worker.
            Err(_) => return Ok(Look::Busy),
        };
        match (stats.unsettled, stats.delayed) {
            _ if stats.ready > 0 => return Ok(Look::Busy),
            (Some(0), Some(0)) => {}
            (Some(_), Some(_)) => return Ok(Look::Busy),
            _ => found = Look::Quiet,
        }
    }
    Ok(found)
}
