//! Keeps one member's entry in the registry up to date: registers it, sends heartbeats, removes it at its end. Used by
//! `client` and by workers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::api::Store;
use super::member::{Member, RunningJob};
use super::registry::{HEARTBEAT, Heartbeat};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, chain};

/// How long the end of a member waits for the store. An entry that stays counts as gone after 30 s.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a heartbeat may take. The next one is tried again before the member would be taken to be gone.
const ANSWER: Duration = Duration::from_secs(15);

/// The work of a member at this moment.
#[derive(Debug, Default)]
pub struct Doing {
    /// The number of jobs that it runs.
    pub busy: u32,
    /// The running jobs that its entry shows.
    pub running: Vec<RunningJob>,
}

/// Keeps a member registered until it is [ended](Self::end). Dropped without that, it sends no more heartbeats, so that the
/// member counts as gone after 30 s.
///
/// If the store cannot be reached, the next heartbeat tries again; the member works on meanwhile.
pub struct Presence {
    leaving: CancellationToken,
    task: JoinHandle<()>,
}

impl Presence {
    /// Registers `member` after `delay`, and again at each heartbeat that finds it missing. `look` returns its work, or `None`
    /// while it must not be listed.
    pub(crate) fn begin(
        runtime: &Handle,
        store: Arc<dyn Store>,
        clock: Clock,
        member: impl FnOnce() -> Member + Send + 'static,
        delay: Duration,
        look: impl Fn() -> Option<Doing> + Send + 'static,
    ) -> Self {
        let leaving = CancellationToken::new();
        let end = leaving.clone();
        let task = runtime.spawn(async move {
            if !delay.is_zero() {
                tokio::select! {
                    biased;
                    () = end.cancelled() => return,
                    () = clock.sleep(delay) => {}
                }
            }
            let entry = Entry { store, clock, member: member(), is_entered: false, is_away: false };
            entry.keep(look, &end).await;
        });
        Self { leaving, task }
    }

    /// Removes the member from the registry. Waits a second at most for a store that cannot be reached.
    pub async fn end(mut self) {
        self.leaving.cancel();
        // It fails if its runtime has ended, and then there is nothing to wait for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").finish_non_exhaustive()
    }
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Connection, format!("the store does not answer within {ANSWER:?}"))
}

/// A member's entry, as its own program knows it.
struct Entry {
    store: Arc<dyn Store>,
    clock: Clock,
    member: Member,
    /// It may be in the registry.
    is_entered: bool,
    /// The store could not be reached the last time.
    is_away: bool,
}

impl Entry {
    /// Ends with `end`, or when the store is closed.
    async fn keep(mut self, look: impl Fn() -> Option<Doing>, end: &CancellationToken) {
        loop {
            let beaten = {
                let beat = tokio::time::timeout(ANSWER, self.beat(look()));
                tokio::select! {
                    biased;
                    beaten = beat => beaten.unwrap_or_else(|_| Err(unanswered())),
                    // Not cut off at once: a heartbeat that arrives after the removal would enter the member again.
                    () = async { end.cancelled().await; tokio::time::sleep(FAREWELL).await } => return,
                }
            };
            match beaten {
                Ok(()) => self.is_away = false,
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        let (name, error) = (&self.member.name, chain(&error));
                        tracing::warn!(
                            target: "leveret", member = %name, %error,
                            "store refuses the heartbeat: `Admin::workers` will show this member as gone, though its jobs go on; \
                             next try in {HEARTBEAT:?}"
                        );
                    }
                }
            }
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                () = self.clock.sleep(HEARTBEAT) => {}
            }
        }
        // An entry that stays counts as gone after 30 s.
        let _ = tokio::time::timeout(FAREWELL, self.leave()).await;
    }

    /// Sends a heartbeat with the member's work, or removes the entry while the member must not be listed.
    async fn beat(&mut self, doing: Option<Doing>) -> Result<()> {
        let Some(Doing { busy, running }) = doing else { return self.leave().await };
        let now = self.clock.now();
        if self.is_entered {
            let mut heartbeat = Heartbeat::new(self.member.id.as_str(), now);
            (heartbeat.busy, heartbeat.running) = (busy, running.clone());
            if self.store.registry().heartbeat(&heartbeat).await? {
                return Ok(());
            }
        }
        let Self { member, .. } = self;
        (member.last_seen, member.busy, member.running) = (now, busy, running);
        // Set before the call: a registration that is cut off may have happened.
        self.is_entered = true;
        self.store.registry().register(&self.member).await
    }

    async fn leave(&mut self) -> Result<()> {
        if self.is_entered {
            self.store.registry().leave(&self.member.id).await?;
            self.is_entered = false;
        }
        Ok(())
    }
}
