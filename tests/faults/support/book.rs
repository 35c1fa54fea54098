//! What was confirmed and what was run, by number: the difference is what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::wait::soon;

/// Shared by who enqueues and who works.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
    changed: Notify,
}

#[derive(Default)]
struct Pages {
    confirmed: BTreeSet<u64>,
    /// How often each was run.
    ran: BTreeMap<u64, u32>,
}

impl Book {
    /// The broker has it: from now on it may not be lost.
    pub(crate) fn confirmed(&self, number: u64) {
        self.pages().confirmed.insert(number);
        self.changed.notify_waiters();
    }

    pub(crate) fn ran(&self, number: u64) {
        *self.pages().ran.entry(number).or_default() += 1;
        self.changed.notify_waiters();
    }

    pub(crate) fn confirmed_count(&self) -> usize {
        self.pages().confirmed.len()
    }

    /// How many different jobs were run.
    pub(crate) fn ran_count(&self) -> usize {
        self.pages().ran.len()
    }

    /// How many runs there were, of one job or of many.
    pub(crate) fn runs(&self) -> u32 {
        self.pages().ran.values().sum()
    }

    /// Waits until so many were confirmed.
    #[track_caller]
    pub(crate) fn until_confirmed(&self, count: usize) -> impl Future<Output = ()> {
        self.until("so many confirms", move |pages| pages.confirmed.len() >= count)
    }

    /// Waits until so many different jobs were run.
    #[track_caller]
    pub(crate) fn until_ran(&self, count: usize) -> impl Future<Output = ()> {
        self.until("so many runs", move |pages| pages.ran.len() >= count)
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&Pages) -> bool) -> impl Future<Output = ()> {
        soon(what, async move {
            loop {
                let changed = self.changed.notified();
                if is_so(&self.pages()) {
                    return;
                }
                changed.await;
            }
        })
    }

    /// Waits until all that was confirmed was run, and prints the count; panics with what is missing.
    pub(crate) async fn balance(&self, what: &str) {
        let all = self.until("all that was confirmed", |pages| pages.lost().is_empty());
        // The count is printed in any case.
        let waited = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(all)).await;
        let pages = self.pages();
        let (confirmed, ran, lost) = (pages.confirmed.len(), pages.ran.len(), pages.lost());
        let twice = pages.ran.values().filter(|runs| **runs > 1).count();
        // Not `println!`, which the test harness swallows when the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "{what}: {confirmed} confirmed, {ran} run ({twice} more than once), {} lost",
            lost.len()
        );
        assert!(waited.is_ok() && lost.is_empty(), "{what}: lost {lost:?}");
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn lost(&self) -> Vec<u64> {
        self.confirmed.iter().filter(|number| !self.ran.contains_key(number)).copied().collect()
    }
}
