//! Declares again what is ours and was deleted, at the first sign of it: a message that should go there comes back. (A
//! consumer whose queue goes hears of it by itself.)

use std::collections::HashMap;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Core, Shared};
use crate::error::chain;
use crate::topology::{Name, Namespace, Route, Topology, delay_ladder};

/// What was declared again, and when; whether that worked. One declaration at a time: a thousand messages may come back for
/// one queue.
pub(super) type Restored = Mutex<HashMap<Name, (Instant, bool)>>;

impl Core {
    /// Declares again where a message goes that has come back, having been sent at `since`, if it was this client that had
    /// declared it. Says whether it is there now.
    pub(super) async fn restore(&self, route: &Route, since: Instant) -> bool {
        let Some(topology) = self.shared.remembered_for(route) else { return false };
        let name = if route.exchange.is_empty() { &route.routing_key } else { &route.exchange };
        let mut restored = self.restored.lock().await;
        if let Some((at, is_there)) = restored.get(name)
            && *at > since
        {
            return *is_there;
        }
        let declared = if self.shared.is_exclusive(name) {
            self.redeclare_exclusive(name).await
        } else {
            self.shared.declare(&topology).await
        };
        match &declared {
            Ok(()) => tracing::warn!(%name, "a queue or exchange of ours was deleted; it is declared again"),
            Err(error) => {
                tracing::error!(%name, error = %chain(error), "what was deleted cannot be declared again");
            }
        }
        restored.insert(name.clone(), (Instant::now(), declared.is_ok()));
        declared.is_ok()
    }
}

impl Shared {
    /// What this client has declared so that a message of this route reaches a queue: all of the ladder for one of its queues,
    /// and an exchange with what is bound to it. `None` if that is somebody else's.
    fn remembered_for(&self, route: &Route) -> Option<Topology> {
        if self.is_exclusive(&route.routing_key) && route.exchange.is_empty() {
            return Some(Topology::new());
        }
        part(&self.remembered(), route, &self.settings.namespace)
    }
}

fn part(remembered: &Topology, route: &Route, namespace: &Namespace) -> Option<Topology> {
    let mut part = remembered.clone();
    part.unbindings.clear();
    if route.exchange.is_empty() {
        let ladder = delay_ladder(namespace).queues;
        let is_wanted: &dyn Fn(&Name) -> bool = if ladder.iter().any(|queue| queue.name == route.routing_key)
        {
            &|name| ladder.iter().any(|queue| queue.name == *name)
        } else {
            &|name| *name == route.routing_key
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Declare, QueueSpec};

    fn remembered() -> Topology {
        let namespace = Namespace::default();
        let mut all = delay_ladder(&namespace);
        all.merge(QueueSpec::new("mail").topology(&namespace).unwrap());
        all.merge(QueueSpec::new("bills").dlx("bills.dlx").topology(&namespace).unwrap());
        all.merge(QueueSpec::new("theirs").declare(Declare::Passive).topology(&namespace).unwrap());
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
