//! Exclusive queues: they belong to the connection that consumes, and go with it. Nobody else may declare, bind, ask
//! about or consume them.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::connect::Link;
use super::core::Core;
use super::fault::{self, Fault};
use super::session;
use super::shared::Shared;
use crate::broker::amqp::Remembered;
use crate::broker::closed;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::topology::{Name, QueueDecl, Topology};

/// Declares the queues that went with the last connection. One that somebody else has by now must not keep the
/// others from working: whoever consumes it hears of it.
pub(super) async fn declare(shared: &Shared, link: &Link) -> Result<(), Fault> {
    let topology = shared.exclusive().topology().clone();
    if topology.queues.is_empty() {
        return Ok(());
    }
    let declaring = async {
        let channel = link.connection.create_channel().await.map_err(|error| fault::lost(&error))?;
        super::declare::declare(&channel, &topology).await
    };
    match tokio::time::timeout(shared.target.deadline, declaring).await {
        Ok(Err(error)) if error.kind() == ErrorKind::Connection => Err(Fault::unwell(error)),
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), "an exclusive queue cannot be declared again");
            Ok(())
        }
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(Fault::unwell(session::gone())),
    }
}

impl Shared {
    pub(super) fn exclusive(&self) -> MutexGuard<'_, Remembered> {
        self.exclusive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_exclusive(&self, queue: &str) -> bool {
        self.exclusive().topology().queues.iter().any(|decl| decl.name == queue)
    }

    /// Splits the exclusive queues off, with their bindings, also where the queue was declared before: only their own
    /// connection may declare either, or look at them.
    pub(super) fn take_exclusive(&self, topology: &mut Topology) -> Topology {
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
}

impl Core {
    /// Declares one of them again, with its bindings.
    pub(super) async fn redeclare_exclusive(&self, queue: &str) -> Result<()> {
        let mut topology = self.shared.exclusive().topology().clone();
        topology.queues.retain(|decl| decl.name == queue);
        topology.bindings.retain(|binding| binding.queue == queue);
        topology.unbindings.retain(|binding| binding.queue == queue);
        self.on_consuming(async |channel| super::declare::declare(channel, &topology).await).await
    }

    /// Runs `work` on a channel of the connection that consumes: exclusive queues belong to it.
    pub(super) async fn on_consuming<T>(
        &self,
        work: impl AsyncFnOnce(&lapin::Channel) -> Result<T>,
    ) -> Result<T> {
        let deadline = self.shared.target.deadline;
        let mut state = self.consuming();
        let working = async {
            let _waits = self.shared.waiters.wait();
            let found = state.wait_for(|state| state.session.is_some()).await.ok();
            let session = found.and_then(|state| state.session.clone()).ok_or_else(closed)?;
            let channel = session.channel(deadline).await.map_err(|error| fault::lost(&error))?;
            work(&channel).await
        };
        tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
            let words = format!("RabbitMQ did not answer within {deadline:?}");
            Err(Error::new(ErrorKind::Connection, words))
        })
    }

    /// Runs `work` on a queue, on the connection that may touch it.
    pub(super) async fn on_queue<T>(
        self: &Arc<Self>,
        is_exclusive: bool,
        work: impl AsyncFnOnce(&lapin::Channel) -> Result<T>,
    ) -> Result<T> {
        if is_exclusive { self.on_consuming(work).await } else { self.aside(work).await }
    }
}
