//! The order in which the URL's hosts are tried: first the one that last worked, last those that were left because they
//! said nothing. Used by `dial` and `supervise`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::url::Host;

/// For how long a node that said nothing is tried last, and is no reason to leave another.
const AVOIDED: Duration = Duration::from_secs(30);

/// Remembers how the hosts did. They are known by their place in the URL.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// The host that worked last.
    good: AtomicUsize,
    /// When each was left, if it was and has not worked since. Sessions watch it: a node that is silent to one of them is
    /// silent to all.
    left: watch::Sender<Vec<Option<Instant>>>,
}

impl Hosts {
    pub(super) fn new(count: usize) -> Self {
        Self { good: AtomicUsize::new(0), left: watch::Sender::new(vec![None; count]) }
    }

    /// All hosts, the one to try first at the front.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let left = self.left.borrow();
        let first = self.good.load(Ordering::Relaxed);
        let mut order: Vec<_> = (0..left.len()).map(|turn| (first + turn) % left.len()).collect();
        // Stable: within each half the order stays.
        order.sort_by_key(|at| is_recent(left[*at]));
        order
    }

    /// A connection to this one was opened.
    pub(super) fn worked(&self, at: usize) {
        self.good.store(at, Ordering::Relaxed);
        self.left.send_if_modified(|left| left[at].take().is_some());
    }

    /// This one says nothing. Its other sessions hear of it.
    pub(crate) fn leave(&self, at: usize) {
        self.left.send_modify(|left| left[at] = Some(Instant::now()));
    }

    /// True if this one was left and has not worked since.
    pub(crate) fn is_left(&self, at: usize) -> bool {
        self.left.borrow()[at].is_some()
    }

    /// True if there is another host to go to. Where all are silent, going round among them would not help.
    pub(crate) fn has_another(&self, at: usize, hosts: &[Host]) -> bool {
        let left = self.left.borrow();
        hosts.iter().enumerate().any(|(other, host)| *host != hosts[at] && !is_recent(left[other]))
    }

    /// Changes whenever a host is left.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<Option<Instant>>> {
        self.left.subscribe()
    }
}

fn is_recent(left: Option<Instant>) -> bool {
    left.is_some_and(|left| left.elapsed() < AVOIDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_was_left_is_tried_last_until_it_works_again() {
        let hosts = Hosts::new(3);
        hosts.worked(1);
        assert_eq!(hosts.in_order(), [1, 2, 0]);

        hosts.leave(1);
        assert_eq!(hosts.in_order(), [2, 0, 1]);
        assert!(hosts.is_left(1));

        hosts.worked(1);
        assert_eq!(hosts.in_order(), [1, 2, 0]);
        assert!(!hosts.is_left(1));
    }

    #[test]
    fn node_is_left_only_for_another_one_that_is_not_silent() {
        let host = |name: &str| Host { name: name.into(), port: 5672 };
        let (one, twice) = ([host("a")], [host("a"), host("a")]);
        assert!(!Hosts::new(1).has_another(0, &one));
        assert!(!Hosts::new(2).has_another(0, &twice));

        let (hosts, all) = (Hosts::new(2), [host("a"), host("b")]);
        assert!(hosts.has_another(0, &all));
        hosts.leave(1);
        assert!(!hosts.has_another(0, &all));
    }
}
