//! The life of a worker: it declares and consumes its queues, fetches until something ends it, and stops. Called by
//! `worker`, which has checked its options.

use std::sync::Arc;
use std::time::Duration;

use queue_core::broker::Consumer;
use queue_core::client::Client;
use queue_core::error::{ErrorKind, Result, chain};
use queue_core::store::{Doing, Member, Presence};
use queue_core::topology::{QueueSpec, Topology};
use tokio::task::JoinSet;

use crate::events::{Emitter, Summary};
use crate::fetch::fetch;
use crate::idle::until_idle;
use crate::lane::{Lane, Shared};
use crate::registry::Task;
use crate::signals::Signals;
use crate::steps::CutOffOnDrop;
use crate::stop::{Finishing, stop};
use crate::suspect::apart;

/// How many queues are declared in one call. SQLite waits for the disk in each, and RabbitMQ's takes a connection: a
/// worker of thousands of queues would start for minutes. All of a call share its time limit, so they are few.
const DECLARED_AT_ONCE: usize = 16;
/// How long the end waits at most until no more suspects are taken.
const SUSPECTS_END: Duration = Duration::from_secs(3);
/// How soon a broker that is away at the start is asked again. Asking itself takes the client's publish timeout.
const AWAY: Duration = Duration::from_secs(1);
/// How many queues, and how many tasks, the log names when the worker starts.
const LISTED: usize = 100;

/// Runs a worker from its start to its end, and returns its counts.
///
/// # Errors
/// As [`Worker::run`](crate::Worker::run) and [`run_until_idle`](crate::Worker::run_until_idle).
pub(crate) async fn run(
    shared: &Arc<Shared>,
    lanes: Vec<Arc<Lane>>,
    mut signals: Signals,
    shutdown_timeout: Duration,
    ends_when_idle: bool,
) -> Result<Summary> {
    // From here on nothing outlives this future.
    let _cut_off = CutOffOnDrop(Arc::clone(&shared.steps));
    let _closed = CloseOnDrop(Arc::clone(&shared.events));

    let mut fetchers = JoinSet::new();
    let finishing = Finishing::default();
    let consumers = tokio::select! {
        consumers = start(shared, &lanes) => consumers?,
        signal = signals.next() => {
            tracing::info!(target: "leveret", %signal, "worker stops before it has begun");
            return Ok(shared.tally.summary());
        }
        () = shared.steps.stopping() => return Ok(shared.tally.summary()),
    };
    let presence = enlist(shared, &lanes);
    for (lane, consumer) in lanes.iter().zip(consumers) {
        fetchers.spawn(fetch(Arc::clone(lane), consumer));
    }
    let mut suspects = JoinSet::new();
    for lane in &lanes {
        suspects.spawn(apart::fetch(Arc::clone(lane)));
    }
    let queues = listed(lanes.iter().map(|lane| lane.queue.as_ref()));
    let tasks = listed(lanes.iter().flat_map(|lane| &lane.plan.tasks).map(Task::name));
    tracing::info!(target: "leveret", worker = %shared.name, %queues, %tasks, "worker started");

    let idle = async {
        if ends_when_idle { until_idle(&shared.activity, &lanes).await } else { std::future::pending().await }
    };
    let ended = tokio::select! {
        signal = signals.next() => {
            tracing::info!(target: "leveret", %signal, "worker stops; a second signal stops it at once");
            Ok(())
        }
        () = shared.steps.stopping() => Ok(()),
        idle = idle => idle,
        Some(fetched) = fetchers.join_next() => finishing.take(fetched),
    };
    if let Err(error) = &ended {
        let error = chain(error);
        tracing::error!(target: "leveret", worker = %shared.name, %error, "worker stops because of an error");
    }

    let stopped = stop(shared, &lanes, fetchers, &finishing, &mut signals, shutdown_timeout).await;
    let suspects_end = async {
        while let Some(ended) = suspects.join_next().await {
            finishing.add(ended.ok().flatten());
        }
    };
    // A fetcher of suspects may be moving a job while the broker is away. Dropped, it gives the job back.
    let _ = tokio::time::timeout(SUSPECTS_END, suspects_end).await;
    finishing.finish().await;
    if let Some(presence) = presence {
        presence.end().await;
    }
    let summary = shared.tally.summary();
    tracing::info!(target: "leveret", worker = %shared.name, %summary, "worker stopped");
    signals.end_process_under(&shared.blocking, &shared.jobs);
    ended.and(stopped).map(|()| summary)
}

/// Lists this worker and its running jobs in the registry until it ends; `None` where the broker has no store.
fn enlist(shared: &Arc<Shared>, lanes: &[Arc<Lane>]) -> Option<Presence> {
    let client = &shared.client;
    let queues = lanes.iter().map(|lane| lane.queue.clone().into_owned()).collect();
    let tasks = lanes.iter().flat_map(|lane| &lane.plan.tasks).map(|task| task.name().to_owned()).collect();
    let member = Member::worker(shared.name.as_str(), queues, tasks, client.clock().now());
    // A weak pointer: the heartbeat may outlive the worker by a moment, and must not keep the client open.
    let looked_at = Arc::downgrade(shared);
    let presence = client.register_worker(member, move || {
        let Some(shared) = looked_at.upgrade() else { return Doing::default() };
        let busy = u32::try_from(shared.jobs.len()).unwrap_or(u32::MAX);
        Doing { busy, running: shared.activity.shown() }
    })?;
    shared.activity.show();
    Some(presence)
}

struct CloseOnDrop(Arc<Emitter>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Declares queues, also those that this client has declared before: they may have been deleted since.
pub(crate) async fn declare(client: &Client, specs: &[&QueueSpec]) -> Result<()> {
    for some in specs.chunks(DECLARED_AT_ONCE) {
        let mut topology = Topology::new();
        for spec in some {
            topology.merge(spec.topology(client.namespace())?);
        }
        client.broker().declare(&topology).await?;
    }
    Ok(())
}

/// Declares and consumes all queues, however long the broker is away.
async fn start(shared: &Shared, lanes: &[Arc<Lane>]) -> Result<Vec<Consumer>> {
    loop {
        match try_start(shared, lanes).await {
            Err(error) if error.kind() == ErrorKind::Connection => {
                let error = chain(&error);
                tracing::warn!(target: "leveret", worker = %shared.name, %error, "worker cannot reach its broker; it tries again until it can");
                tokio::time::sleep(AWAY).await;
            }
            started => return started,
        }
    }
}

async fn try_start(shared: &Shared, lanes: &[Arc<Lane>]) -> Result<Vec<Consumer>> {
    // All are declared before the first is consumed: a worker that cannot start has run nothing.
    let specs: Vec<_> = lanes.iter().map(|lane| lane.plan.spec).collect();
    declare(&shared.client, &specs).await?;
    show(shared, lanes).await?;
    let mut consumers = Vec::new();
    for lane in lanes {
        consumers.push(lane.consume().await?);
    }
    Ok(consumers)
}

/// Shows that this process lives, so that a job that ends it can be told from a lost connection.
///
/// # Errors
/// If the broker is away.
async fn show(shared: &Shared, lanes: &[Arc<Lane>]) -> Result<()> {
    lanes.iter().for_each(|lane| lane.suspects.tell(&lane.queue));
    let Some(liveness) = shared.client.broker().liveness() else { return Ok(()) };
    let Err(error) = liveness.name().await else { return Ok(()) };
    if matches!(error.kind(), ErrorKind::Connection | ErrorKind::Closed) {
        return Err(error);
    }
    // Otherwise no worker could tell which of these jobs ended a process.
    lanes.iter().for_each(|lane| lane.suspects.refuse());
    let error = chain(&error);
    tracing::warn!(
        target: "leveret", worker = %shared.name, %error,
        "worker cannot show other workers that it lives: a job that ends its process again and again runs alone, and becomes a \
         dead letter only at the delivery limit of its queue; let this user configure the queues `{}.*`", shared.client.namespace().as_str()
    );
    Ok(())
}

/// The names, for one line of the log.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = names.collect();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}
