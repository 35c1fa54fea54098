//! The running functions without `async`. They cannot be stopped, so a worker that stops names them, and a second signal ends
//! the process. Entered by `handler`; read by `stop` and `signals`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use queue_core::envelope::JobId;
use tokio::sync::Notify;

/// The largest number of functions that a log line names.
const NAMED: usize = 5;

/// The running functions of one worker.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    running: Mutex<Running>,
    /// Told when there is none.
    none: Notify,
}

#[derive(Debug, Default)]
struct Running {
    /// Numbers them in the order in which they began.
    next: u64,
    functions: BTreeMap<u64, Function>,
}

#[derive(Debug)]
struct Function {
    task: &'static str,
    job: JobId,
    since: Instant,
}

/// A function that runs, until this is dropped.
pub(crate) struct Entered {
    blocking: Arc<Blocking>,
    number: u64,
}

impl Blocking {
    /// A job's function begins.
    pub(crate) fn enter(self: &Arc<Self>, task: &'static str, job: JobId) -> Entered {
        let mut running = self.running();
        let number = running.next;
        running.next += 1;
        running.functions.insert(number, Function { task, job, since: Instant::now() });
        drop(running);
        Entered { blocking: Arc::clone(self), number }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.running().functions.is_empty()
    }

    /// Waits until none runs. Cancel safe.
    pub(crate) async fn none(&self) {
        loop {
            let none = self.none.notified();
            if self.is_none() {
                return;
            }
            none.await;
        }
    }

    /// Those that run, the oldest first, for people: "`resize` (job 0198…, for 12 s)".
    pub(crate) fn list(&self) -> String {
        let running = self.running();
        let mut list: Vec<_> = running.functions.values().take(NAMED).map(Function::words).collect();
        let more = running.functions.len().saturating_sub(NAMED);
        if more > 0 {
            list.push(format!("and {more} more"));
        }
        list.join(", ")
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function {
    fn words(&self) -> String {
        let Self { task, job, since } = self;
        format!("`{task}` (job {job}, for {} s)", since.elapsed().as_secs())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut running = self.blocking.running();
        running.functions.remove(&self.number);
        if running.functions.is_empty() {
            self.blocking.none.notify_waiters();
        }
    }
}
