//! Declares again what is ours and was deleted, at the first sign of it: a message that should go there comes back. (A
//! consumer whose queue goes hears of it by itself.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::broker::amqp;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::fault::Fault;
use crate::broker::rabbitmq::connection::runtime::on;
use crate::broker::rabbitmq::supervise::connections::Connections;
use crate::broker::rabbitmq::topology::declare;
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::broker::rabbitmq::topology::redeclare;
use crate::error::Result;
use crate::topology::{Namespace, Route, Topology};

/// Declares again, and remembers what, by the route of the messages that came back.
pub(crate) struct Restorer {
    dialer: Arc<Dialer>,
    declared: Arc<Declared>,
    connections: Arc<Connections>,
    namespace: Namespace,
    handle: Handle,
    restored: Mutex<HashMap<Route, Last>>,
}

/// When it was last declared again, and whether that worked. Locked meanwhile: a thousand messages may come back for one
/// queue. Those of other routes do not wait, since a queue may be slow to answer.
type Last = Arc<tokio::sync::Mutex<Option<(Instant, bool)>>>;

impl Restorer {
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        declared: Arc<Declared>,
        connections: Arc<Connections>,
        namespace: Namespace,
        handle: Handle,
    ) -> Self {
        Self { dialer, declared, connections, namespace, handle, restored: Mutex::default() }
    }

    fn of(&self, route: Route) -> Last {
        let mut restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        restored.entry(route).or_default().clone()
    }

    /// Declares again where a message goes that has come back, having been sent at `since`, if it was this client that had
    /// declared it. Returns true if it is there now.
    pub(crate) async fn restore(self: &Arc<Self>, route: &Route, since: Instant) -> bool {
        let Some(topology) = self.declared.reaching(route, &self.namespace) else {
            return false;
        };
        let (restorer, route) = (self.clone(), route.clone());
        // A caller may publish from outside of any runtime.
        on(&self.handle, async move { restorer.restore_once(&route, &topology, since).await }).await
    }

    async fn restore_once(&self, route: &Route, topology: &Topology, since: Instant) -> bool {
        let (exchange, routing_key) = (&route.exchange, &route.routing_key);
        let mut key = route.clone();
        // The ladder is declared as a whole, whichever of its queues is missing.
        if let Some(first) = topology.queues.first().filter(|_| exchange.is_empty()) {
            key.routing_key = first.name.clone();
        }
        let last = self.of(key);
        let mut last = last.lock().await;
        if let Some((at, is_there)) = *last
            && at > since
        {
            return is_there;
        }
        // Only the default exchange leads to an exclusive queue by its name.
        let declared = if exchange.is_empty() && self.declared.is_exclusive(routing_key) {
            self.redeclare_exclusive(routing_key).await
        } else {
            redeclare::apart(&self.dialer, topology).await
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

    /// Declares an exclusive queue again, with its bindings.
    pub(crate) async fn redeclare_exclusive(&self, queue: &str) -> Result<()> {
        let mut topology = self.declared.exclusive().topology().clone();
        topology.queues.retain(|decl| decl.name == queue);
        topology.bindings.retain(|binding| binding.queue == queue);
        topology.unbindings.retain(|binding| binding.queue == queue);
        self.connections.on_consuming(async |channel| declare::declare(channel, &topology).await).await
    }

    /// Declares everything once more. Only a lost connection is an error.
    pub(crate) async fn redeclare_all(&self) -> Result<(), Fault> {
        redeclare::all(&self.dialer, &self.declared).await
    }
}
