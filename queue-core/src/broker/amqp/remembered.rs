//! What a client has declared, to be declared again when somebody has deleted it: a dead letter that has nowhere to go would
//! send its job back, and the job would run again.

use crate::error::{Error, chain};
use crate::topology::{Name, Route, Topology};

/// What one client has declared.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Topology);

impl Remembered {
    /// Adds what was declared. Of a queue that was declared before, what it is now counts.
    pub(crate) fn add(&mut self, declared: &Topology) {
        let Self(all) = self;
        let anew = |name: &Name| declared.queues.iter().find(|queue| queue.name == *name && !queue.passive);
        all.queues.retain(|queue| anew(&queue.name).is_none());
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

    /// Declares this queue no more.
    pub(crate) fn forget(&mut self, queue: &str) {
        let Self(all) = self;
        all.queues.retain(|decl| decl.name != queue);
        all.bindings.retain(|decl| decl.queue != queue);
        all.unbindings.retain(|decl| decl.queue != queue);
    }

    /// What a message of this route needs to reach a queue. `None` if that is somebody else's.
    pub(crate) fn reaching(&self, route: &Route) -> Option<Topology> {
        let Self(all) = self;
        reaching(all, route, |name| *name == route.routing_key)
    }
}

/// The part of `remembered` that a message of this route needs to reach a queue: an exchange with what is bound to it, or
/// the queues that are `wanted` where it goes by the default exchange. `None` if that is somebody else's.
pub(crate) fn reaching(
    remembered: &Topology,
    route: &Route,
    is_wanted: impl Fn(&Name) -> bool,
) -> Option<Topology> {
    let mut part = remembered.clone();
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

/// Logs that a message of this route has arrived because its queue was declared again.
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
    use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl};

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
