//! Work on a channel of a connection, within a deadline.

use std::time::Duration;

use lapin::Channel;

use super::connect::Link;
use super::fault;
use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on a new channel of a connection.
pub(crate) async fn on_new<T>(
    link: &Link,
    deadline: Duration,
    work: impl AsyncFnOnce(&Channel) -> Result<T>,
) -> Result<T> {
    let working = async {
        let channel = link.connection.create_channel().await.map_err(|error| fault::lost(&error))?;
        work(&channel).await
    };
    within(deadline, link, working).await
}

/// Waits for what is done on a connection.
pub(crate) async fn within<T>(
    deadline: Duration,
    link: &Link,
    working: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
        let words = format!("RabbitMQ at {} did not answer within {deadline:?}", link.host);
        Err(Error::new(ErrorKind::Connection, words))
    })
}
