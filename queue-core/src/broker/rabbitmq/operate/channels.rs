//! The channels on which a queue may be asked about, emptied and walked through.

use std::any::Any;
use std::sync::Arc;

use lapin::Channel;

use super::control::ControlConnection;
use crate::broker::rabbitmq::supervise::connections::Connections;
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::error::Result;

/// Opens channels on the connection that may touch a queue.
#[derive(Clone)]
pub(crate) struct Channels {
    pub(crate) declared: Arc<Declared>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) control: Arc<ControlConnection>,
}

impl Channels {
    /// Runs `work` on a queue, on the connection that may touch it.
    pub(crate) async fn on_queue<T>(
        &self,
        is_exclusive: bool,
        work: impl AsyncFnOnce(&lapin::Channel) -> Result<T>,
    ) -> Result<T> {
        if is_exclusive { self.connections.on_consuming(work).await } else { self.control.run(work).await }
    }

    /// A channel to walk on: beside those that jobs go by, since a message that cannot be parsed ends the connection; but an
    /// exclusive queue is seen only by its own.
    pub(super) async fn open(&self, queue: &str) -> Result<(Channel, Box<dyn Any + Send + Sync>)> {
        if self.declared.is_exclusive(queue) {
            let state = self.connections.consuming();
            let channel = self.connections.on_consuming(async |channel| Ok(channel.clone())).await?;
            return Ok((channel, Box::new(state)));
        }
        let (link, channel) = self.control.channel().await?;
        Ok((channel, Box::new(link)))
    }
}
