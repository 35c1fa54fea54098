//! The memory broker's store: who is registered. It has a lock of its own, so that no heartbeat stands in a job's way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use uuid::Uuid;

use crate::broker::closed;
use crate::error::Result;
use crate::store::{FORGOTTEN_AFTER, Heartbeat, Member, Registry, Store};

/// The members of one memory broker, which all its clients share.
#[derive(Debug)]
pub(super) struct Roster {
    id: String,
    /// In the order of their registration.
    members: Mutex<Vec<Member>>,
}

impl Roster {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { id: format!("memory:{}", Uuid::now_v7()), members: Mutex::default() })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Vec<Member>) -> R) -> R {
        act(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One client's view of the roster.
#[derive(Debug)]
pub(super) struct MemoryStore {
    roster: Arc<Roster>,
    /// The members that this client registered; `None` when it is closed.
    own: Mutex<Option<HashSet<String>>>,
}

impl MemoryStore {
    pub(super) fn new(roster: Arc<Roster>) -> Arc<Self> {
        Arc::new(Self { roster, own: Mutex::new(Some(HashSet::new())) })
    }

    /// Takes out the members that this client registered.
    pub(super) fn close(&self) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        self.roster.with(|members| members.retain(|member| !own.contains(&member.id)));
    }

    /// Does something with the members, unless closed. Both locks are held for that: none registers behind its closing.
    fn act<R>(&self, act: impl FnOnce(&mut Vec<Member>, &mut HashSet<String>) -> R) -> Result<R> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.as_mut().ok_or_else(closed)?;
        Ok(self.roster.with(|members| act(members, own)))
    }
}

impl Store for MemoryStore {
    fn id(&self) -> &str {
        &self.roster.id
    }

    fn registry(&self) -> &dyn Registry {
        self
    }
}

#[async_trait]
impl Registry for MemoryStore {
    async fn register(&self, member: &Member) -> Result<()> {
        self.act(|members, own| {
            own.insert(member.id.clone());
            members.retain(|other| other.id != member.id);
            members.push(Member { is_gone: false, ..member.clone() });
            forget(members, member.last_seen);
        })
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<bool> {
        let Heartbeat { id, at, busy, running } = heartbeat;
        self.act(|members, _| {
            let member = members.iter_mut().find(|member| member.id == *id);
            let is_there = member.is_some();
            if let Some(member) = member {
                (member.last_seen, member.busy) = (*at, *busy);
                member.running.clone_from(running);
            }
            forget(members, *at);
            is_there
        })
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.act(|members, _| members.clone())
    }

    async fn leave(&self, id: &str) -> Result<()> {
        self.act(|members, own| {
            own.remove(id);
            members.retain(|member| member.id != id);
        })
    }
}

/// Takes out what has been silent for so long at this moment.
fn forget(members: &mut Vec<Member>, now: SystemTime) {
    members.retain(|member| {
        now.duration_since(member.last_seen).map_or(true, |silence| silence < FORGOTTEN_AFTER)
    });
}
