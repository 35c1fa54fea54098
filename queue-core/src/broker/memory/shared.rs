//! The state behind its lock, and who is told when it changes.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use tokio::sync::watch;

use super::consumer::Losses;
use super::registry::Roster;
use super::settler::{Deliveries, Ticket};
use super::state::State;
use crate::broker::amqp::Plan;
use crate::clock::Clock;
use crate::envelope::HeaderValue;
use crate::error::SettleError;

/// The state that all clients of one memory broker share.
///
/// The lock is never held across an await. Under it, consumers are handed their deliveries at once, so that they
/// get them in their order; what would take the lock again when dropped is dropped after it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    clock: Clock,
    losses: Arc<Losses>,
    roster: Arc<Roster>,
    /// When something happens by itself next; timers wait for it.
    deadline: watch::Sender<Option<SystemTime>>,
    /// Counts changes, for tasks that wait for one.
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        let losses = Arc::<Losses>::default();
        Arc::new_cyclic(|shared: &Weak<Self>| Self {
            state: Mutex::new(State::new(clock.clone(), shared.clone(), losses.clone())),
            clock,
            losses,
            roster: Roster::new(),
            deadline: watch::Sender::new(None),
            changes: watch::Sender::new(0),
        })
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The registered members.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Does something with the state, as of now: what is due by the clock has happened before.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let result = self.look(act);
        self.tell();
        result
    }

    /// As [`with`](Self::with), for code that changes nothing itself: no task is woken, unless something was due.
    pub(super) fn look<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = state.catch_up();
        let result = act(&mut state);
        let deadline = state.deadline();
        self.deadline.send_if_modified(|told| std::mem::replace(told, deadline) != deadline);
        let discarded = state.discarded();
        drop(state);
        drop(discarded);
        if has_changed {
            self.tell();
        }
        result
    }

    fn tell(&self) {
        // No task waits here on the way of a job, except in tests.
        if self.changes.receiver_count() > 0 {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// True if something will happen by itself.
    pub(super) fn needs_timer(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    /// Notices changes made from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Deliveries for Shared {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn settle(&self, ticket: &Ticket, plan: &Plan) -> Result<(), SettleError> {
        self.with(|state| state.settle(ticket, plan))
    }

    fn mark(&self, ticket: &Ticket, name: &str, value: &HeaderValue) -> Result<(), SettleError> {
        self.look(|state| state.mark(ticket, name, value))
    }

    fn holds(&self, ticket: &Ticket) -> bool {
        // Without the lock where nothing has been lost since.
        self.losses.count() == ticket.losses || self.look(|state| state.is_held(ticket))
    }

    fn give_back(&self, ticket: &Ticket) {
        self.with(|state| state.give_back(ticket));
    }
}

/// Lets happen what is due by the clock, when it is due. Ends when the broker is gone.
pub(super) async fn keep_time(shared: Weak<Shared>) {
    let Some((clock, mut deadline)) =
        shared.upgrade().map(|shared| (shared.clock.clone(), shared.deadline.subscribe()))
    else {
        return;
    };
    loop {
        let next = *deadline.borrow_and_update();
        let due = async {
            match next {
                Some(moment) => clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Both arms only wait, so dropping the other one loses nothing.
            changed = deadline.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = due => {
                let Some(shared) = shared.upgrade() else { return };
                shared.look(|_| {});
            }
        }
    }
}
