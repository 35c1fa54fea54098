//! The connection on which queues are asked about and emptied, beside those that jobs go by: a refusal closes its
//! channel, and a queue that answers slowly holds up nobody. It is kept for a while, since who watches queues asks often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use tokio::time::Instant;

use super::connect::Link;
use super::{Core, fault, session};
use crate::error::{Error, ErrorKind, Result};

/// For how long it is kept after the last question.
const IDLE: Duration = Duration::from_secs(10);
/// How long a kept connection may take to open a channel, before a new one is made: it may have been dead for a while.
const STALE: Duration = Duration::from_secs(2);

/// The connection, if one is kept.
#[derive(Default)]
pub(super) struct Aside(Mutex<Option<Kept>>);

struct Kept {
    link: Arc<Link>,
    last_used: Instant,
}

impl Aside {
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, which counts as used.
    fn present(&self) -> Option<Arc<Link>> {
        let mut kept = self.kept();
        let kept = kept.as_mut().filter(|kept| kept.link.connection.status().connected())?;
        kept.last_used = Instant::now();
        Some(kept.link.clone())
    }

    /// Lets go of this connection.
    fn forget(&self, link: &Arc<Link>) {
        self.kept().take_if(|kept| Arc::ptr_eq(&kept.link, link));
    }

    /// When this connection has been idle for long enough; `None` if it is not kept any more.
    fn idle_at(&self, link: &Arc<Link>) -> Option<Instant> {
        let kept = self.kept();
        let kept = kept.as_ref().filter(|kept| Arc::ptr_eq(&kept.link, link))?;
        // Besides the two that keep it there is somebody who asks.
        let is_used = Arc::strong_count(link) > 2;
        Some(if is_used { Instant::now() } else { kept.last_used } + IDLE)
    }
}

impl Core {
    /// Runs `work` on a channel of the kept connection, or of a new one.
    pub(super) async fn aside<T>(
        self: &Arc<Self>,
        work: impl AsyncFnOnce(&Channel) -> Result<T>,
    ) -> Result<T> {
        let (link, channel) = self.aside_channel().await?;
        within(self.shared.target.deadline, &link, work(&channel)).await
    }

    /// A channel of the kept connection, or of a new one; the connection is kept as long as somebody has it.
    pub(super) async fn aside_channel(self: &Arc<Self>) -> Result<(Arc<Link>, Channel)> {
        let deadline = self.shared.target.deadline;
        if let Some(link) = self.aside.present() {
            match tokio::time::timeout(deadline.min(STALE), link.connection.create_channel()).await {
                Ok(Ok(channel)) => return Ok((link, channel)),
                _ => self.aside.forget(&link),
            }
        }
        let link = session::open_any(&self.shared, "questions").await.map_err(|fault| fault.error)?;
        let link = Arc::new(link);
        let channel = on_channel(&link, deadline, async |channel| Ok(channel.clone())).await;
        self.keep(link.clone());
        Ok((link, channel?))
    }

    /// Keeps a connection, until it is idle or the broker is closed.
    fn keep(self: &Arc<Self>, link: Arc<Link>) {
        let mut kept = self.aside.kept();
        // Of two that were opened at once the first is kept.
        if kept.as_ref().is_none_or(|kept| !kept.link.connection.status().connected()) {
            *kept = Some(Kept { link: link.clone(), last_used: Instant::now() });
        }
        drop(kept);
        let core = self.clone();
        self.connections.spawn(&self.handle, async move {
            while let Some(idle_at) = core.aside.idle_at(&link).filter(|at| *at > Instant::now()) {
                tokio::select! {
                    () = tokio::time::sleep_until(idle_at) => {}
                    () = core.shared.closed.cancelled() => break,
                }
            }
            core.aside.forget(&link);
            link.close(Duration::from_secs(1)).await;
        });
    }
}

/// Runs `work` on a new channel of a connection.
pub(super) async fn on_channel<T>(
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

async fn within<T>(deadline: Duration, link: &Link, working: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
        let words = format!("RabbitMQ at {} did not answer within {deadline:?}", link.host);
        Err(Error::new(ErrorKind::Connection, words))
    })
}
