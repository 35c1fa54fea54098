//! Declares something once for all who need it, and lets them give up together. Used by `client` for queues and
//! exchanges, and by RabbitMQ for the delay ladder.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::error::{Error, ErrorKind, Result, chain};

/// One declaration at a time, so that a hundred first jobs do not declare their queue a hundred times.
#[derive(Debug, Default)]
pub(crate) struct Declaring {
    /// When the broker was last found to be away, and what it said.
    away: Mutex<Option<(Instant, String)>>,
}

impl Declaring {
    /// Declares, unless `is_declared` returns true once it is our turn, because another caller has done so.
    ///
    /// `declare` waits `patience` for a broker that is away. Who has waited long enough for that to fail does not wait
    /// once more: twenty who came together would wait twenty times as long. Cancel safe.
    ///
    /// # Errors
    /// Those of `declare`; of kind `Connection` also where another caller's has just failed so.
    pub(crate) async fn once(
        &self,
        patience: Duration,
        is_declared: impl Fn() -> bool,
        declare: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        if is_declared() {
            return Ok(());
        }
        let since = Instant::now();
        let mut away = self.away.lock().await;
        if is_declared() {
            return Ok(());
        }
        if let Some((at, why)) = &*away
            && *at >= since
            && since.elapsed() >= patience / 2
        {
            return Err(Error::new(ErrorKind::Connection, why.clone()));
        }
        let declared = declare.await;
        if let Err(error) = &declared
            && error.kind() == ErrorKind::Connection
        {
            *away = Some((Instant::now(), chain(error)));
        }
        declared
    }
}
