//! Declares again what is ours and was deleted, at the first sign of it: a message that should go there comes back. (A
//! consumer whose queue goes hears of it by itself.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::core::Core;
use super::runtime::on;
use super::shared::Shared;
use crate::broker::amqp::{self, Remembered};
use crate::topology::{Name, Namespace, Route, Topology, delay_ladder};

/// What was declared again, by the route of the messages that came back.
#[derive(Default)]
pub(super) struct Restored(Mutex<HashMap<Route, Last>>);

/// When it was last declared again, and whether that worked. Locked meanwhile: a thousand messages may come back for one
/// queue. Those of other routes do not wait, since a queue may be slow to answer.
type Last = Arc<tokio::sync::Mutex<Option<(Instant, bool)>>>;

impl Restored {
    fn of(&self, route: Route) -> Last {
        let mut restored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        restored.entry(route).or_default().clone()
    }
}

impl Core {
    /// Declares again where a message goes that has come back, having been sent at `since`, if it was this client that had
    /// declared it. Says whether it is there now.
    pub(super) async fn restore(self: &Arc<Self>, route: &Route, since: Instant) -> bool {
        let Some(topology) = self.shared.remembered_for(route) else { return false };
        let (core, route) = (self.clone(), route.clone());
        // A caller may publish from outside of any runtime.
        on(&self.handle, async move { core.restore_once(&route, &topology, since).await }).await
    }

    async fn restore_once(&self, route: &Route, topology: &Topology, since: Instant) -> bool {
        let (exchange, routing_key) = (&route.exchange, &route.routing_key);
        let mut key = route.clone();
        // The ladder is declared as a whole, whichever of its queues is missing.
        if let Some(first) = topology.queues.first().filter(|_| exchange.is_empty()) {
            key.routing_key = first.name.clone();
        }
        let last = self.restored.of(key);
        let mut last = last.lock().await;
        if let Some((at, is_there)) = *last
            && at > since
        {
            return is_there;
        }
        // Only the default exchange leads to an exclusive queue by its name.
        let declared = if exchange.is_empty() && self.shared.is_exclusive(routing_key) {
            self.redeclare_exclusive(routing_key).await
        } else {
            self.shared.declare(topology).await
        };
        match &declared {
            Ok(()) if exchange.is_empty() => {
                tracing::warn!(queue = %routing_key, "a queue of ours was deleted; it is declared again");
            }
            Ok(()) => tracing::warn!(
                %exchange, %routing_key,
                "a message reached no queue, so the exchange and what this client has bound to it are declared again"
            ),
            Err(error) => amqp::tell_unrestored(route, error),
        }
        *last = Some((Instant::now(), declared.is_ok()));
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
