//! Knows the topology that this client has declared, which is declared again on every connect, and when it turns out to be
//! gone.
//!
//! Exclusive queues stand apart: they belong to the connection that consumes, and are deleted with it. No other connection may declare,
//! bind, ask about or consume them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::broker::amqp::Remembered;
use crate::topology::{Name, Namespace, QueueDecl, Route, Topology, delay_ladder};

/// The topology that this client has declared.
#[derive(Default)]
pub(crate) struct Declared {
    /// Declared on every connect.
    remembered: Mutex<Remembered>,
    /// Declared on every connect of the shared consuming connection: its exclusive queues go with it.
    exclusive: Mutex<Remembered>,
}

impl Declared {
    pub(crate) fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares this queue no more.
    pub(crate) fn forget(&self, queue: &str) {
        self.remembered().forget(queue);
        self.exclusive().forget(queue);
    }

    pub(crate) fn exclusive(&self) -> MutexGuard<'_, Remembered> {
        self.exclusive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_exclusive(&self, queue: &str) -> bool {
        self.exclusive().topology().queues.iter().any(|decl| decl.name == queue)
    }

    /// Splits the exclusive queues off, with their bindings, also where the queue was declared before: only their own
    /// connection may declare either, or look at them.
    pub(crate) fn take_exclusive(&self, topology: &mut Topology) -> Topology {
        let mut exclusive = Topology::default();
        let is_ours =
            |queue: &mut QueueDecl| queue.exclusive || queue.passive && self.is_exclusive(&queue.name);
        exclusive.queues = topology.queues.extract_if(.., is_ours).collect();
        let is_exclusive =
            |name: &Name| exclusive.queues.iter().any(|queue| queue.name == *name) || self.is_exclusive(name);
        exclusive.bindings =
            topology.bindings.extract_if(.., |binding| is_exclusive(&binding.queue)).collect();
        exclusive.unbindings =
            topology.unbindings.extract_if(.., |binding| is_exclusive(&binding.queue)).collect();
        exclusive
    }

    /// The topology that this client has declared so that a message of this route reaches a queue: all of the ladder for one of its
    /// queues, and an exchange with its bindings. `None` if this client has not declared it.
    pub(crate) fn reaching(&self, route: &Route, namespace: &Namespace) -> Option<Topology> {
        if self.is_exclusive(&route.routing_key) && route.exchange.is_empty() {
            return Some(Topology::new());
        }
        part(&self.remembered(), route, namespace)
    }
}

fn part(remembered: &Remembered, route: &Route, namespace: &Namespace) -> Option<Topology> {
    let ladder = delay_ladder(namespace).queues;
    let is_rung = |name: &Name| ladder.iter().any(|queue| queue.name == *name);
    if is_rung(&route.routing_key) {
        remembered.reaching_by(route, is_rung)
    } else {
        remembered.reaching(route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Declare, QueueSpec};

    fn remembered() -> Remembered {
        let namespace = Namespace::default();
        let mut all = Remembered::default();
        all.add(&delay_ladder(&namespace));
        all.add(&QueueSpec::new("mail").topology(&namespace).unwrap());
        all.add(&QueueSpec::new("bills").dlx("bills.dlx").topology(&namespace).unwrap());
        all.add(&QueueSpec::new("theirs").declare(Declare::Passive).topology(&namespace).unwrap());
        all
    }

    fn names(exchange: &'static str, routing_key: &'static str) -> Option<Vec<String>> {
        let route = Route { exchange: exchange.into(), routing_key: routing_key.into() };
        let part = part(&remembered(), &route, &Namespace::default())?;
        let exchanges = part.exchanges.iter().map(|exchange| exchange.name.to_string());
        Some(exchanges.chain(part.queues.iter().map(|queue| queue.name.to_string())).collect())
    }

    #[test]
    fn what_is_declared_again_is_what_the_message_needs() {
        assert_eq!(names("", "mail"), Some(vec!["mail".into()]));
        assert_eq!(names("bills.dlx", "bills"), Some(vec!["bills.dlx".into(), "bills.dead".into()]));
        assert_eq!(names("", "leveret.delay.03").map(|names| names.len()), Some(23));
    }

    #[test]
    fn what_belongs_to_others_is_left_to_them() {
        assert_eq!(names("", "theirs"), None);
        assert_eq!(names("", "unheard of"), None);
        assert_eq!(names("amq.topic", "key"), None);
    }
}
