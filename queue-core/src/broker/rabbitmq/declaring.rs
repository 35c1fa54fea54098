//! Declares topology, and remembers it for the next connect.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::fault::Fault;
use super::runtime::on;
use super::shared::Shared;
use super::{aside, declare, session};
use crate::broker::amqp::check_topology;
use crate::broker::closed;
use crate::error::{ErrorKind, Result};
use crate::topology::Topology;

impl Shared {
    /// Declares on a connection of its own, which is closed afterwards: after a failure it leads to where the others go.
    pub(super) async fn declare(&self, topology: &Topology) -> Result<()> {
        let link = session::open_any(self, "declare").await.map_err(|fault| fault.error)?;
        let declare = async |channel: &lapin::Channel| declare::declare(channel, topology).await;
        let declared = aside::on_channel(&link, self.target.deadline, declare).await;
        link.close(Duration::from_secs(1)).await;
        declared
    }

    /// Declares everything once more. Only a lost connection is an error: a conflict is logged, and must not keep the
    /// other queues from working.
    pub(super) async fn redeclare(&self) -> Result<(), Fault> {
        let topology = self.remembered().topology().clone();
        if topology == Topology::default() {
            return Ok(());
        }
        if self.declare(&topology).await.is_ok() {
            return Ok(());
        }
        // Whatever the reason: a queue that does not answer looks as if the connection did not.
        let link = session::open_any(self, "declare").await?;
        let declared = declare::declare_each(&link, self.target.deadline, &topology).await;
        link.close(Duration::from_secs(1)).await;
        declared.map_err(Fault::unwell)
    }
}

impl Core {
    /// Declares, and remembers for the next connect. Waits for a broker that is away as long as a publish does.
    pub(super) async fn declare(self: &Arc<Self>, mut topology: Topology) -> Result<()> {
        self.ensure_open()?;
        check_topology(&topology)?;
        let exact = self.shared.exact.take_from(&mut topology)?;
        let exclusive = self.shared.take_exclusive(&mut topology);
        let core = self.clone();
        on(&self.handle, async move {
            let shared = &core.shared;
            if topology != Topology::default() {
                core.declare_patiently(&topology, false).await?;
                shared.remembered().add(&topology);
            }
            if exclusive != Topology::default() {
                core.declare_patiently(&exclusive, true).await?;
                shared.exclusive().add(&exclusive);
            }
            exact.apply(shared).await
        })
        .await
    }

    /// Declares again what failed because the broker was away, when it is back; within the publish timeout.
    async fn declare_patiently(&self, topology: &Topology, is_exclusive: bool) -> Result<()> {
        let deadline = Instant::now() + self.shared.settings.publish_timeout;
        let mut state = self.publishing.clone();
        let _waits = self.shared.waiters.wait();
        let mut pause = Duration::from_millis(100);
        loop {
            let declared = if is_exclusive {
                self.on_consuming(async |channel| declare::declare(channel, topology).await).await
            } else {
                self.shared.declare(topology).await
            };
            if !matches!(&declared, Err(error) if error.kind() == ErrorKind::Connection) {
                return declared;
            }
            // A pause in any case: the publisher may not have noticed yet, or be let in where we are not.
            let back = async {
                tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                state.wait_for(|state| state.session.is_some()).await.is_ok()
            };
            tokio::select! {
                true = back => {}
                () = tokio::time::sleep_until(deadline) => return declared,
                () = self.shared.closed.cancelled() => return Err(closed()),
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
