//! Declares topology, and remembers it for the next connect.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::exact::Exact;
use crate::broker::amqp::check_topology;
use crate::broker::closed;
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::runtime::on;
use crate::broker::rabbitmq::supervise::connections::Connections;
use crate::broker::rabbitmq::supervise::pause::Waiters;
use crate::broker::rabbitmq::supervise::session::State;
use crate::broker::rabbitmq::topology::declare;
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::broker::rabbitmq::topology::redeclare;
use crate::error::{ErrorKind, Result};
use crate::topology::Topology;

/// Declares what callers ask for.
pub(crate) struct Declarer {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) exact: Exact,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) closing: Closing,
    /// The connection that is published on.
    pub(crate) connection: watch::Receiver<State>,
    pub(crate) publish_timeout: Duration,
    pub(crate) handle: Handle,
}

impl Declarer {
    /// Declares, and remembers for the next connect. Waits for a broker that is away as long as a publish does.
    pub(crate) async fn declare(self: &Arc<Self>, mut topology: Topology) -> Result<()> {
        self.closing.ensure_open()?;
        check_topology(&topology)?;
        let wanted = self.exact.take_from(&mut topology)?;
        let exclusive = self.declared.take_exclusive(&mut topology);
        let declarer = self.clone();
        on(&self.handle, async move {
            let declared = &declarer.declared;
            if topology != Topology::default() {
                declarer.declare_patiently(&topology, false).await?;
                declared.remembered().add(&topology);
            }
            if exclusive != Topology::default() {
                declarer.declare_patiently(&exclusive, true).await?;
                declared.exclusive().add(&exclusive);
            }
            declarer.exact.apply(wanted, declared).await
        })
        .await
    }

    /// Declares again what failed because the broker was away, when it is back; within the publish timeout.
    async fn declare_patiently(&self, topology: &Topology, is_exclusive: bool) -> Result<()> {
        let deadline = Instant::now() + self.publish_timeout;
        let mut state = self.connection.clone();
        let _waits = self.waiters.wait();
        let mut pause = Duration::from_millis(100);
        loop {
            let declared = if is_exclusive {
                self.connections.on_consuming(async |channel| declare::declare(channel, topology).await).await
            } else {
                redeclare::apart(&self.dialer, topology).await
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
                () = self.closing.closed.cancelled() => return Err(closed()),
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
