//! Exclusive queues: they belong to the connection that consumes, and go with it. Nobody else may declare, bind, ask
//! about or consume them.

use std::sync::Arc;

use super::core::Core;
use super::{declare, fault};
use crate::broker::closed;
use crate::error::{Error, ErrorKind, Result};

impl Core {
    /// Declares one of them again, with its bindings.
    pub(super) async fn redeclare_exclusive(&self, queue: &str) -> Result<()> {
        let mut topology = self.shared.declared.exclusive().topology().clone();
        topology.queues.retain(|decl| decl.name == queue);
        topology.bindings.retain(|binding| binding.queue == queue);
        topology.unbindings.retain(|binding| binding.queue == queue);
        self.on_consuming(async |channel| declare::declare(channel, &topology).await).await
    }

    /// Runs `work` on a channel of the connection that consumes: exclusive queues belong to it.
    pub(super) async fn on_consuming<T>(
        &self,
        work: impl AsyncFnOnce(&lapin::Channel) -> Result<T>,
    ) -> Result<T> {
        let deadline = self.shared.dialer.target.deadline;
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
