//! An entry of the registry: a worker, or a client that only sends.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::registry::{FORGOTTEN_AFTER, GONE_AFTER};
use crate::envelope::JobId;
use crate::topology::Name;

/// The number of what members of one store agree upon. It goes up when a program must understand something new of the others,
/// such as a pause: an older one would ignore it.
pub const PROTOCOL: u32 = 1;

/// A worker or a client, as the registry lists it. See [`Admin::workers`](crate::admin::Admin::workers).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Names this member; new at each start, and never used again.
    pub id: String,
    /// Tells workers from clients that only send.
    pub kind: MemberKind,
    /// The worker's name ([`program@host:process`, or as the program says]), or the client's.
    ///
    /// [`program@host:process`, or as the program says]: crate::client::ClientBuilder::name
    pub name: String,
    /// The name of its machine; empty where the system does not tell it.
    pub host: String,
    /// The process id on that machine.
    pub process: u32,
    /// The version of Leveret that it was built with.
    pub version: String,
    /// The number of the protocol that it understands: [`PROTOCOL`] of that version.
    pub protocol: u32,
    /// When it began, by its own clock.
    pub started_at: SystemTime,
    /// When it gave its last sign of life, by its own clock. It gives one every 5 s.
    pub last_seen: SystemTime,
    /// It has given no sign of life for 30 s: it was killed, stands still, or cannot reach the store. An hour after its
    /// last sign of life it is no longer listed.
    pub is_gone: bool,
    /// The queues that a worker consumes.
    pub queues: Vec<String>,
    /// The tasks that a worker runs.
    pub tasks: Vec<String>,
    /// How many jobs a worker was working on at its last sign of life.
    pub busy: u32,
    /// The jobs among these that have run for longest, the oldest first: [`MOST_SHOWN`](Self::MOST_SHOWN) at most. A job that
    /// has blocked its thread from its beginning, without an `await`, is counted in [`busy`](Self::busy) and not shown.
    pub running: Vec<RunningJob>,
}

/// The two kinds of [`Member`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberKind {
    /// It runs jobs, and may send some.
    Worker,
    /// It enqueues, publishes or calls, and no worker of its program uses the same client.
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
    /// When its handler began to wait for something: for most jobs, at once.
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

    /// Judges by this moment if it is gone.
    pub(crate) fn seen_at(mut self, now: SystemTime) -> Self {
        self.is_gone = self.silence(now) >= GONE_AFTER;
        self
    }

    /// Its last sign of life is so old that it is not listed any more.
    pub(crate) fn is_forgotten_at(&self, now: SystemTime) -> bool {
        self.silence(now) >= FORGOTTEN_AFTER
    }

    /// How long it has given no sign of life. A last one that is yet to come was given before the clock was set back: a living
    /// member would have given another by now.
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

/// The name of this machine; empty where the system does not tell it.
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
