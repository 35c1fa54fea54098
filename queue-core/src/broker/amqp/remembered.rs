//! Every client remembers the queues, exchanges and bindings that it has declared, and declares them again when somebody has
//! deleted them. Otherwise a dead letter would have nowhere to go, and its job would come back and run again.

use crate::error::{Error, chain};
use crate::topology::{BindingDecl, Name, Route, Topology};

/// The queues, exchanges and bindings that a client has declared, as it declared them last.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Topology);

impl Remembered {
    /// Adds a declaration. It takes the place of earlier ones of the same queues and exchanges, which somebody has deleted
    /// since if they were others.
    pub(crate) fn add(&mut self, declared: &Topology) {
        let Self(all) = self;
        let anew = |name: &Name| declared.queues.iter().find(|queue| queue.name == *name && !queue.passive);
        let is_anew = |name: &Name| declared.exchanges.iter().any(|new| new.name == *name && !new.passive);
        all.queues.retain(|queue| anew(&queue.name).is_none());
        all.exchanges.retain(|exchange| !is_anew(&exchange.name));
        all.bindings.retain(|binding| {
            let is_exact = anew(&binding.queue).is_some_and(|queue| queue.exact_bindings);
            !is_exact
                || declared.makes(&binding.queue, &binding.exchange, &binding.routing_key, &binding.arguments)
        });
        let mut declared = declared.clone();
        // Or declaring a part again would take out the bindings that are not in it.
        declared.queues.iter_mut().for_each(|queue| queue.exact_bindings = false);
        all.merge(declared);
    }

    /// All of it, to be declared on a new connection.
    #[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "other brokers have no connections"))]
    pub(crate) fn topology(&self) -> &Topology {
        &self.0
    }

    /// Forgets the bindings that `is_kept` does not keep.
    #[cfg_attr(
        not(feature = "rabbitmq"),
        allow(dead_code, reason = "`add` does so where bindings can be listed")
    )]
    pub(crate) fn keep_bindings(&mut self, is_kept: impl FnMut(&BindingDecl) -> bool) {
        self.0.bindings.retain(is_kept);
    }

    /// Forgets a queue with its bindings.
    pub(crate) fn forget(&mut self, queue: &str) {
        let Self(all) = self;
        all.queues.retain(|decl| decl.name != queue);
        all.bindings.retain(|decl| decl.queue != queue);
        all.unbindings.retain(|decl| decl.queue != queue);
    }

    /// The part that a message of this route needs to reach a queue. `None` if this client has not declared it.
    pub(crate) fn reaching(&self, route: &Route) -> Option<Topology> {
        self.reaching_by(route, |name| *name == route.routing_key)
    }

    /// Like [`reaching`](Self::reaching), with all queues for which `is_wanted` returns true where the message goes by the default exchange.
    pub(crate) fn reaching_by(&self, route: &Route, is_wanted: impl Fn(&Name) -> bool) -> Option<Topology> {
        let mut part = self.0.clone();
        part.unbindings.clear();
        if route.exchange.is_empty() {
            part.queues.retain(|queue| is_wanted(&queue.name) && !queue.passive);
            part.bindings.retain(|binding| is_wanted(&binding.queue));
            part.exchanges
                .retain(|exchange| part.bindings.iter().any(|binding| binding.exchange == exchange.name));
            (!part.queues.is_empty()).then_some(part)
        } else {
            part.exchanges.retain(|exchange| exchange.name == route.exchange);
            part.bindings.retain(|binding| binding.exchange == route.exchange);
            part.queues.retain(|queue| part.bindings.iter().any(|binding| binding.queue == queue.name));
            let is_ours = part.exchanges.iter().any(|exchange| !exchange.passive);
            is_ours.then_some(part)
        }
    }
}

/// Logs that a message of this route has arrived because its queue was declared again.
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) fn tell_restored(route: &Route) {
    let Route { exchange, routing_key } = route;
    tracing::warn!(%exchange, %routing_key, "a queue of ours was deleted; it is declared again");
}

/// Logs that a message of this route still reaches no queue.
pub(crate) fn tell_unrestored(route: &Route, error: &Error) {
    let Route { exchange, routing_key } = route;
    tracing::error!(%exchange, %routing_key, error = %chain(error), "what was deleted cannot be declared again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{ExchangeDecl, ExchangeKind, QueueDecl};

    fn dead(argument: i64) -> Topology {
        Topology::new()
            .exchange(ExchangeDecl::new("dlx", ExchangeKind::Direct))
            .queue(QueueDecl::new("mail.dead").argument("x-max-length", argument))
            .binding(BindingDecl::new("dlx", "mail.dead", "mail"))
    }

    fn route() -> Route {
        Route { exchange: "dlx".into(), routing_key: "mail".into() }
    }

    #[test]
    fn queue_is_declared_again_as_it_was_declared_last() {
        let mut remembered = Remembered::default();
        remembered.add(&dead(1));
        remembered.add(&dead(2));

        assert_eq!(remembered.reaching(&route()), Some(dead(2)));
    }

    #[test]
    fn queue_that_was_forgotten_is_not_declared_again() {
        let mut remembered = Remembered::default();
        remembered.add(&dead(1));

        remembered.forget("mail.dead");

        assert_eq!(remembered.reaching(&route()).unwrap().queues, []);
    }

    #[test]
    fn binding_that_was_taken_out_is_not_made_again() {
        let mut remembered = Remembered::default();
        remembered.add(&dead(1));
        let mut exact = QueueDecl::new("mail.dead");
        exact.exact_bindings = true;

        remembered.add(&Topology::new().queue(exact));

        assert_eq!(remembered.reaching(&route()).unwrap().bindings, []);
    }
}
