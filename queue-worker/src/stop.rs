//! Stops a worker, step by step, and ensures that the broker has every settlement. Called by `run`;
//! the steps themselves are in `steps`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use queue_core::broker::Consumer;
use queue_core::error::{Error, ErrorKind, Result, chain};
use tokio::task::{JoinError, JoinSet};

use crate::fetch::Fetched;
use crate::lane::{Lane, Shared};
use crate::signals::{Received, Signals};

/// How long jobs that were told to end through their `Context` have to do so before they are cut off.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long the broker has to confirm the last settlements.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long cut-off jobs have until they are given back. A job that blocks its thread cannot even be cut off.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(1);

/// Stops in three steps, each only if the one before was not enough.
pub(crate) async fn stop(
    shared: &Shared,
    lanes: &[Arc<Lane>],
    mut fetchers: JoinSet<Fetched>,
    finishing: &Finishing,
    signals: &mut Signals,
    timeout: Duration,
) -> Result<()> {
    shared.steps.stop();
    shared.jobs.close();
    if !shared.blocking.is_none() {
        let functions = shared.blocking.list();
        tracing::warn!(
            target: "leveret", worker = %shared.name, %functions, ends_process = signals.is_listening(),
            "worker waits for functions without `async`, which cannot be stopped; with `ends_process`, a second signal ends \
             the process"
        );
    }
    let late = {
        let finished = async {
            finishing.join(&mut fetchers).await;
            for lane in lanes {
                lane.slots.all_free().await;
            }
        };
        tokio::pin!(finished);

        let late = tokio::select! {
            () = &mut finished => return Ok(()),
            signal = second(signals) => {
                tracing::warn!(target: "leveret", %signal, "second signal: worker stops at once");
                false
            }
            () = shared.steps.cutting_off() => false,
            () = tokio::time::sleep(timeout) => true,
        };
        if late {
            let running = lanes.iter().map(|lane| lane.slots.taken()).sum::<usize>();
            tracing::warn!(target: "leveret", running, ?timeout, "jobs did not end within the shutdown timeout and are cancelled");
            shared.steps.cancel();
            tokio::select! {
                () = &mut finished => return Ok(()),
                _ = second(signals) => {}
                () = shared.steps.cutting_off() => {}
                () = tokio::time::sleep(CANCEL_GRACE) => {}
            }
        }
        late
    };

    // Not the number of taken slots: a fetcher that waits for a job has taken one, too.
    let running = shared.jobs.len();
    shared.steps.cut_off();
    // Not until all slots are free: a blocking function cannot be cut off, and its job is given back all the same.
    let given_back = async {
        shared.jobs.wait().await;
        finishing.join(&mut fetchers).await;
    };
    if tokio::time::timeout(CUT_OFF_TIMEOUT, given_back).await.is_err() {
        let running = shared.jobs.len();
        tracing::warn!(target: "leveret", running, "worker could not give all jobs back in time; the broker delivers them again");
    }
    if late || running == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Worker,
        format!("the worker was stopped at once; {running} running jobs were cut off and run again"),
    ))
}

/// Waits for a second signal. The first one has stopped the worker, unless something else had done so before.
async fn second(signals: &mut Signals) -> Received {
    loop {
        let signal = signals.next().await;
        if signals.is_second() {
            return signal;
        }
        tracing::info!(target: "leveret", %signal, "worker stops already; a second signal stops it at once");
    }
}

/// Consumers of queues that are not fetched from any more. They are finished when all jobs are settled.
#[derive(Default)]
pub(crate) struct Finishing(Mutex<Vec<Consumer>>);

impl Finishing {
    pub(crate) fn take(&self, joined: Result<Fetched, JoinError>) -> Result<()> {
        match joined {
            Ok(Fetched { consumer, ended }) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(consumer);
                ended
            }
            Err(error) => {
                Err(Error::new(ErrorKind::Worker, "fetching jobs ended unexpectedly").with_source(error))
            }
        }
    }

    /// Adds a consumer, if there is one.
    pub(crate) fn add(&self, consumer: Option<Consumer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(consumer);
    }

    /// Waits until nothing is fetched any more.
    async fn join(&self, fetchers: &mut JoinSet<Fetched>) {
        while let Some(fetched) = fetchers.join_next().await {
            // Only the first error is returned; this is another.
            if let Err(error) = self.take(fetched) {
                let error = chain(&error);
                tracing::error!(target: "leveret", %error, "worker could not consume a queue until its stop; its jobs wait for other workers");
            }
        }
    }

    /// Waits until the broker has every settlement: the process may end next, and unsent settlements would be lost.
    pub(crate) async fn finish(self) {
        let consumers = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let finishing = join_all(consumers.into_iter().map(Consumer::finish));
        if tokio::time::timeout(FLUSH_TIMEOUT, finishing).await.is_err() {
            tracing::warn!(target: "leveret", "broker has not confirmed the last settlements in time; it may deliver finished jobs again");
        }
    }
}
