//! The connection on which queues are asked about, emptied and walked through, beside those that jobs go by: a refusal closes its
//! channel, and a queue that answers slowly delays no other. It is kept for a while, since programs that watch queues ask often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use tokio::time::Instant;

use crate::broker::rabbitmq::connection::channel::{self, within};
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::connect::Link;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::error::{Error, ErrorKind, Result};

/// For how long it is kept after the last question.
const IDLE: Duration = Duration::from_secs(10);
/// How long a kept connection may take to open a channel, before a new one is made: it may have been dead for a while.
const STALE: Duration = Duration::from_secs(2);

/// The connection, if one is kept.
pub(crate) struct ControlConnection {
    dialer: Arc<Dialer>,
    /// The task that keeps it is one of these.
    tasks: Arc<Tasks>,
    closing: Closing,
    kept: Mutex<Option<Kept>>,
    /// Held while one is opened: callers that ask meanwhile wait for it, and open none of their own.
    opening: tokio::sync::Mutex<()>,
}

struct Kept {
    link: Arc<Link>,
    last_used: Instant,
}

impl ControlConnection {
    pub(crate) fn new(dialer: Arc<Dialer>, tasks: Arc<Tasks>, closing: Closing) -> Self {
        Self { dialer, tasks, closing, kept: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// When to look at this connection again; `None` if it is to be closed. It is not kept any more then, so that no
    /// caller can get it.
    fn next_look(&self, link: &Arc<Link>) -> Option<Instant> {
        let mut kept = self.kept();
        let this = kept.as_ref().filter(|kept| Arc::ptr_eq(&kept.link, link));
        let last_used = this.map(|kept| kept.last_used);
        // The task that looks has it, and this does if it is kept. All others are callers at work.
        let owners = if last_used.is_some() { 2 } else { 1 };
        if Arc::strong_count(link) > owners {
            return Some(Instant::now() + IDLE);
        }
        let idle_at = last_used? + IDLE;
        if idle_at <= Instant::now() {
            *kept = None;
            return None;
        }
        Some(idle_at)
    }

    /// Runs `work` on a channel of the kept connection, or of a new one.
    pub(super) async fn run<T>(self: &Arc<Self>, work: impl AsyncFnOnce(&Channel) -> Result<T>) -> Result<T> {
        let (link, channel) = self.channel().await?;
        within(self.dialer.target.deadline, &link, work(&channel)).await
    }

    /// A channel of the kept connection, or of a new one. The connection stays open while the caller holds it.
    pub(super) async fn channel(self: &Arc<Self>) -> Result<(Arc<Link>, Channel)> {
        if let Some(found) = self.kept_channel().await {
            return Ok(found);
        }
        let deadline = self.dialer.target.deadline;
        let Ok(_opening) = tokio::time::timeout(deadline, self.opening.lock()).await else {
            let words = format!("RabbitMQ let no connection in within {deadline:?}");
            return Err(Error::new(ErrorKind::Connection, words));
        };
        // Another caller may have opened it meanwhile.
        if let Some(found) = self.kept_channel().await {
            return Ok(found);
        }
        // Operators know it by this name.
        let link = self.dialer.dial("questions").await.map_err(|fault| fault.error)?;
        let link = Arc::new(link);
        let channel = channel::on_new(&link, deadline, async |channel| Ok(channel.clone())).await?;
        self.keep(link.clone());
        Ok((link, channel))
    }

    /// A channel of the kept connection. One that does not open it in time is kept no more.
    async fn kept_channel(&self) -> Option<(Arc<Link>, Channel)> {
        let link = self.present()?;
        let patience = self.dialer.target.deadline.min(STALE);
        match tokio::time::timeout(patience, link.connection.create_channel()).await {
            Ok(Ok(channel)) => Some((link, channel)),
            _ => {
                self.forget(&link);
                None
            }
        }
    }

    /// Keeps a connection until it is idle, or the broker is closed and has nothing left to say.
    fn keep(self: &Arc<Self>, link: Arc<Link>) {
        *self.kept() = Some(Kept { link: link.clone(), last_used: Instant::now() });
        let control = self.clone();
        self.tasks.spawn(async move {
            while let Some(look) = control.next_look(&link) {
                tokio::select! {
                    () = tokio::time::sleep_until(look) => {}
                    // Not when `close` begins: walks give back what they hold, and acks are on their way.
                    () = control.closing.flushed.cancelled() => break,
                }
            }
            control.forget(&link);
            link.close(Duration::from_secs(1)).await;
        });
    }
}
