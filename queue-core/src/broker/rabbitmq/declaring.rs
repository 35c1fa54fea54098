//! Declares topology, and remembers it for the next connect.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::runtime::on;
use super::{declare, redeclare};
use crate::broker::amqp::check_topology;
use crate::broker::closed;
use crate::error::{ErrorKind, Result};
use crate::topology::Topology;

impl Core {
    /// Declares, and remembers for the next connect. Waits for a broker that is away as long as a publish does.
    pub(super) async fn declare(self: &Arc<Self>, mut topology: Topology) -> Result<()> {
        self.ensure_open()?;
        check_topology(&topology)?;
        let exact = self.exact.take_from(&mut topology)?;
        let exclusive = self.shared.declared.take_exclusive(&mut topology);
        let core = self.clone();
        on(&self.handle, async move {
            let declared = &core.shared.declared;
            if topology != Topology::default() {
                core.declare_patiently(&topology, false).await?;
                declared.remembered().add(&topology);
            }
            if exclusive != Topology::default() {
                core.declare_patiently(&exclusive, true).await?;
                declared.exclusive().add(&exclusive);
            }
            exact.apply(&core.exact, declared).await
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
                redeclare::apart(&self.shared.dialer, topology).await
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
