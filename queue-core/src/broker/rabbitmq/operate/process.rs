//! Shows that this process lives, and asks if another one does. Each process has an exclusive queue, `<namespace>.alive.<name>`: the
//! server deletes it when its connection has gone, and refuses it to others until then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::control::ControlConnection;
use crate::broker::Liveness;
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::connection::runtime::on;
use crate::broker::rabbitmq::declare::declaring::Declarer;
use crate::broker::rabbitmq::message::convert::short;
use crate::broker::rabbitmq::topology::declare;
use crate::error::Result;
use crate::topology::{Namespace, QueueDecl, Topology};

/// How long a process has to show itself again: its connection may be lost, and it may be about to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon it is looked for again. Each look that finds nothing is an error in the server's log.
const LOOK: Duration = Duration::from_secs(1);

/// This process, and those that it asks about.
pub(crate) struct Process {
    pub(crate) declarer: Arc<Declarer>,
    pub(crate) control: Arc<ControlConnection>,
    pub(crate) namespace: Namespace,
    /// The name of this process, once it is known to others.
    pub(crate) name: OnceCell<String>,
}

impl Process {
    fn queue(&self, name: &str) -> String {
        format!("{}.alive.{name}", self.namespace.as_str())
    }

    async fn declare(&self) -> Result<String> {
        let name = format!("{:032x}", u128::from_ne_bytes(std::array::from_fn(|_| fastrand::u8(..))));
        let queue = QueueDecl::new(self.queue(&name)).argument("x-queue-type", "classic").exclusive();
        self.declarer.declare(Topology::new().queue(queue)).await?;
        Ok(name)
    }

    /// Looks once whether the queue is there.
    async fn look(&self, queue: String) -> Result<bool> {
        let control = self.control.clone();
        let ask = async move |channel: &Channel| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            match channel.queue_declare(short(&queue), options, FieldTable::default()).await {
                Ok(_) => Ok(true),
                Err(error) => match fault::protocol(&error) {
                    Some((code::RESOURCE_LOCKED, _)) => Ok(true),
                    Some((code::NOT_FOUND, _)) => Ok(false),
                    _ => Err(declare::refusal_to_operator(&queue, &error)),
                },
            }
        };
        on(&self.declarer.handle, async move { control.run(ask).await }).await
    }
}

#[async_trait]
impl Liveness for Process {
    async fn name(&self) -> Result<String> {
        self.name.get_or_try_init(|| self.declare()).await.cloned()
    }

    async fn is_alive(&self, name: &str) -> Result<bool> {
        if self.name.get().is_some_and(|own| own == name) {
            return Ok(true);
        }
        let (queue, since) = (self.queue(name), Instant::now());
        while !self.look(queue.clone()).await? {
            if since.elapsed() >= PATIENCE {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }
}
