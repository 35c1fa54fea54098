//! Declares on a connection of its own, and again what this client has declared: when it has connected, and when it turns out to be gone.

use std::time::Duration;

use super::declare;
use super::declared::Declared;
use crate::broker::rabbitmq::connection::channel;
use crate::broker::rabbitmq::connection::connect::Link;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::fault::{self, Fault};
use crate::error::{ErrorKind, Result, chain};
use crate::topology::Topology;

/// Declares on a connection of its own, which is closed afterwards: after a failure it leads to where the others go.
pub(crate) async fn apart(dialer: &Dialer, topology: &Topology) -> Result<()> {
    let link = dialer.dial("declare").await.map_err(|fault| fault.error)?;
    let declare = async |channel: &lapin::Channel| declare::declare(channel, topology).await;
    let declared = channel::on_new(&link, dialer.target.deadline, declare).await;
    link.close(Duration::from_secs(1)).await;
    declared
}

/// Declares everything once more. Only a lost connection is an error: a conflict is logged, and must not keep the
/// other queues from working.
pub(crate) async fn all(dialer: &Dialer, declared: &Declared) -> Result<(), Fault> {
    let topology = declared.remembered().topology().clone();
    if topology == Topology::default() {
        return Ok(());
    }
    if apart(dialer, &topology).await.is_ok() {
        return Ok(());
    }
    // Whatever the reason: a queue that does not answer looks as if the connection did not.
    let link = dialer.dial("declare").await?;
    let declared = declare::declare_each(&link, dialer.target.deadline, &topology).await;
    link.close(Duration::from_secs(1)).await;
    declared.map_err(Fault::unwell)
}

/// Declares the queues that went with the last connection. One that another client has by now must not keep the
/// others from working: its consumer gets the error.
pub(crate) async fn exclusive(dialer: &Dialer, declared: &Declared, link: &Link) -> Result<(), Fault> {
    let topology = declared.exclusive().topology().clone();
    if topology.queues.is_empty() {
        return Ok(());
    }
    let declaring = async {
        let channel = link.connection.create_channel().await.map_err(|error| fault::lost(&error))?;
        declare::declare(&channel, &topology).await
    };
    match tokio::time::timeout(dialer.target.deadline, declaring).await {
        Ok(Err(error)) if error.kind() == ErrorKind::Connection => Err(Fault::unwell(error)),
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), "an exclusive queue cannot be declared again");
            Ok(())
        }
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(Fault::unwell(fault::gone())),
    }
}
