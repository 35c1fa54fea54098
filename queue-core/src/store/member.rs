//! An entry of the registry: a worker, or a client that only sends.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::registry::{FORGOTTEN_AFTER, GONE_AFTER};
use crate::envelope::JobId;
use crate::topology::Name;

/// The version of the protocol between members of one store. It goes up when members must understand something new, such as a
/// pause, which an older member would ignore.
pub const PROTOCOL: u32 = 1;

/// A worker or a client, as the registry lists it. See [`Admin::workers`](crate::admin::Admin::workers).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The member's id; new at each start, and never used again.
    pub id: String,
    /// Tells workers from clients that only send.
    pub kind: MemberKind,
    /// The worker's name ([`program@host:process`, or as the program says]), or the client's.
    ///
    /// [`program@host:process`, or as the program says]: crate::client::ClientBuilder::name
    pub name: String,
    /// The name of its machine; empty where the system does not provide it.
    pub host: String,
    /// The process id on that machine.
    pub process: u32,
    /// The version of Leveret that it was built with.
    pub version: String,
    /// The number of the protocol that it understands: [`PROTOCOL`] of that version.
    pub protocol: u32,
    /// The moment that it started, by its own clock.
    pub started_at: SystemTime,
    /// The moment of its last heartbeat, by its own clock. It sends one every 5 s.
    pub last_seen: SystemTime,
    /// True after 30 s without a heartbeat: it was killed, hangs, or cannot reach the store. An hour after its last heartbeat it
    /// is no longer listed.
    pub is_gone: bool,
    /// The queues that a worker consumes.
    pub queues: Vec<String>,
    /// The tasks that a worker runs.
    pub tasks: Vec<String>,
    /// The number of jobs that a worker ran at its last heartbeat.
    pub busy: u32,
    /// The jobs that have run for longest, the oldest first, [`MOST_SHOWN`](Self::MOST_SHOWN) at most. A job that has blocked its
    /// thread from its beginning, without an `await`, counts in [`busy`](Self::busy) and is not shown.
    pub running: Vec<RunningJob>,
}

/// The two kinds of [`Member`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberKind {
    /// It runs jobs, and may send some.
    Worker,
    /// It enqueues, publishes or calls, and no worker uses the same client.
    Client,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningJob {
    /// Its id.
    pub id: JobId,
    /// The name of its task.
    pub task: Name,
    /// The queue that it came from.
    pub queue: Name,
    /// The moment that its handler first waited for something: for most jobs, at once.
    pub since: SystemTime,
}

impl Member {
    /// How many running jobs an entry shows at most.
    pub const MOST_SHOWN: usize = 50;

    /// A client of this program.
    pub fn client(name: impl Into<String>, now: SystemTime) -> Self {
        Self::new(MemberKind::Client, name.into(), now)
    }

    /// A worker of this program, with the queues that it consumes and the tasks that it runs.
    pub fn worker(name: impl Into<String>, queues: Vec<String>, tasks: Vec<String>, now: SystemTime) -> Self {
        Self { queues, tasks, ..Self::new(MemberKind::Worker, name.into(), now) }
    }

    fn new(kind: MemberKind, name: String, now: SystemTime) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            kind,
            name,
            host: host(),
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            started_at: now,
            last_seen: now,
            is_gone: false,
            queues: Vec::new(),
            tasks: Vec::new(),
            busy: 0,
            running: Vec::new(),
        }
    }

    /// Sets [`is_gone`](Self::is_gone) as of this moment.
    pub(crate) fn seen_at(mut self, now: SystemTime) -> Self {
        self.is_gone = self.silence(now) >= GONE_AFTER;
        self
    }

    /// True if its last heartbeat is so old that it is no longer listed.
    pub(crate) fn is_forgotten_at(&self, now: SystemTime) -> bool {
        self.silence(now) >= FORGOTTEN_AFTER
    }

    /// The time since its last heartbeat. A heartbeat in the future was sent before the clock was set back: a living member
    /// would have sent another by now.
    fn silence(&self, now: SystemTime) -> Duration {
        now.duration_since(self.last_seen).unwrap_or_else(|ahead| ahead.duration())
    }
}

impl RunningJob {
    /// A job that runs since this moment.
    pub fn new(id: JobId, task: impl Into<Name>, queue: impl Into<Name>, since: SystemTime) -> Self {
        Self { id, task: task.into(), queue: queue.into(), since }
    }
}

/// The name of this machine; empty where the system does not provide it.
fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    kernel.or_else(variable).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn member_is_gone_after_thirty_seconds_of_silence() {
        let member = Member::client("a", UNIX_EPOCH + Duration::from_secs(100));
        let is_gone_at = |secs| member.clone().seen_at(UNIX_EPOCH + Duration::from_secs(secs)).is_gone;

        assert!(!is_gone_at(129));
        assert!(is_gone_at(130));
        assert!(!is_gone_at(71), "a clock may be a little ahead");
        assert!(is_gone_at(0), "the clock was set back, and it has given no sign of life since");
    }
}
