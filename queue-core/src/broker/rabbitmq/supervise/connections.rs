//! The connections that are consumed from. One is shared, and exclusive queues belong to it; a queue that would harm the
//! others gets one of its own.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::session::State;
use super::supervision::{APART, CONSUMER, Supervision, supervise};
use crate::broker::closed;
use crate::broker::rabbitmq::connection::fault;
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::error::{Error, ErrorKind, Result};

/// The connections that are consumed from.
pub(crate) struct Connections {
    supervision: Arc<Supervision>,
    /// These keep connections.
    tasks: Arc<Tasks>,
    /// Opened by the first consumer.
    consuming: OnceLock<watch::Receiver<State>>,
}

impl Connections {
    pub(crate) fn new(supervision: Arc<Supervision>, tasks: Arc<Tasks>) -> Self {
        Self { supervision, tasks, consuming: OnceLock::new() }
    }

    /// The connection for consuming, opened when it is first asked for. Exclusive queues belong to it.
    pub(crate) fn consuming(&self) -> watch::Receiver<State> {
        self.consuming.get_or_init(|| self.keep_consuming(CONSUMER)).clone()
    }

    /// Another connection for consuming, which owns no exclusive queues.
    pub(crate) fn new_apart(&self) -> watch::Receiver<State> {
        self.keep_consuming(APART)
    }

    /// A connection for consuming that lives as long as its state has a receiver.
    fn keep_consuming(&self, role: &'static str) -> watch::Receiver<State> {
        let (state, receiver) = watch::channel(State::default());
        let keeping = supervise(self.supervision.clone(), role, state, None);
        self.tasks.spawn(keeping);
        receiver
    }

    /// Runs `work` on a channel of the connection that consumes: exclusive queues belong to it.
    pub(crate) async fn on_consuming<T>(
        &self,
        work: impl AsyncFnOnce(&lapin::Channel) -> Result<T>,
    ) -> Result<T> {
        let deadline = self.supervision.dialer.target.deadline;
        let mut state = self.consuming();
        let working = async {
            let _waits = self.supervision.waiters.wait();
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
}
