//! One connection's life, numbered, which ends whole at its first error; and how a connection is at the moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use tokio_util::sync::CancellationToken;

use crate::broker::rabbitmq::connection::connect::Link;
use crate::error::Error;

/// One connection's life.
#[derive(Debug)]
pub(crate) struct Session {
    /// Counts up; in log lines.
    pub(crate) number: u64,
    pub(super) link: Link,
    /// Cancelled by the first task that sees that the connection is lost.
    dead: CancellationToken,
}

impl Session {
    pub(super) fn new(number: u64, link: Link) -> Self {
        Self { number, link, dead: CancellationToken::new() }
    }

    /// Opens a channel, within the connect deadline.
    pub(crate) async fn channel(&self, deadline: Duration) -> lapin::Result<Channel> {
        let opened = tokio::time::timeout(deadline, self.link.connection.create_channel()).await;
        opened.unwrap_or_else(|_| {
            self.fail("it did not open a channel in time");
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
        })
    }

    /// True if the connection lives, as far as lapin knows.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.connection.status().connected() && !self.dead.is_cancelled()
    }

    /// Ends what goes on: the connection is of no more use.
    pub(super) fn end(&self) {
        self.dead.cancel();
    }

    /// Waits until the connection has been given up. Cancel safe.
    pub(super) async fn ended(&self) {
        self.dead.cancelled().await;
    }

    /// Gives the connection up.
    pub(crate) fn fail(&self, why: &str) {
        if !self.dead.is_cancelled() {
            tracing::warn!(session = self.number, "giving up the connection to RabbitMQ: {why}");
            self.dead.cancel();
        }
    }
}

/// How a connection is at the moment.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// The session, while there is one.
    pub(crate) session: Option<Arc<Session>>,
    /// The reason why the server takes no messages, while it does not.
    pub(crate) blocked: Option<String>,
    /// The reason why there is no session.
    pub(crate) down: Option<Arc<Error>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session.as_ref().map(|session| session.number);
        f.debug_struct("State").field("session", &session).field("blocked", &self.blocked).finish()
    }
}
