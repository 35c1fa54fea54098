//! Brings each reply to the call that waits for it. One reply consumer a client, opened by its first call, and anew by
//! the first call after it has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, ConsumeOptions, Consumer, DIRECT_REPLY_TO, closed};
use crate::envelope::Envelope;
use crate::error::{Error, Result};

/// A client's replies.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The line that is open, or that has ended and nobody has called since.
    line: Mutex<Option<Arc<Line>>>,
    /// Held while a line is opened: there is one at a time.
    opening: tokio::sync::Mutex<()>,
    /// The tasks that read the lines.
    readers: TaskTracker,
}

impl Replies {
    /// The open line, or a new one.
    ///
    /// # Errors
    /// If the broker cannot be reached within its publish timeout, or is closed.
    pub(crate) async fn line(&self, broker: &Arc<dyn Broker>) -> Result<Arc<Line>> {
        if let Some(line) = self.present() {
            return Ok(line);
        }
        let _opening = self.opening.lock().await;
        if let Some(line) = self.present() {
            return Ok(line);
        }
        let consumer = broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO)).await?;
        let line = Arc::<Line>::default();
        self.readers.spawn(read(line.clone(), consumer));
        *self.slot() = Some(line.clone());
        Ok(line)
    }

    /// Opens another line for the next call, since this one leads nowhere.
    pub(crate) fn forget(&self, line: &Arc<Line>) {
        self.slot().take_if(|present| Arc::ptr_eq(present, line));
    }

    /// Waits until nothing is read any more. Only after the broker was closed, which ends the consumer.
    pub(crate) async fn ended(&self) {
        self.readers.close();
        self.readers.wait().await;
    }

    fn present(&self) -> Option<Arc<Line>> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Line>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reply consumer's life, and who waits for what comes by it.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<LineState>);

#[derive(Debug, Default)]
struct LineState {
    /// By correlation id.
    waiting: HashMap<String, oneshot::Sender<Envelope>>,
    /// Why nothing more will come.
    ended: Option<Arc<Error>>,
}

impl Line {
    /// Waits for the reply to the request of this correlation id. `None` if the line has ended.
    pub(crate) fn wait_for(self: &Arc<Self>, id: String) -> Option<Waiting> {
        let mut state = self.state();
        if state.ended.is_some() {
            return None;
        }
        let (sender, reply) = oneshot::channel();
        state.waiting.insert(id.clone(), sender);
        drop(state);
        Some(Waiting { line: self.clone(), id, reply })
    }

    /// Why it has ended.
    pub(crate) fn why(&self) -> Arc<Error> {
        self.state().ended.clone().unwrap_or_else(|| Arc::new(closed()))
    }

    fn answer(&self, reply: Envelope) {
        let Some(id) = &reply.correlation_id else {
            tracing::warn!(reply = %reply.id, "ignored a reply without a correlation id: it answers no request");
            return;
        };
        match self.state().waiting.remove(id) {
            // A call that has gone in this very moment does not want to know.
            Some(waiting) => drop(waiting.send(reply)),
            None => tracing::debug!(
                correlation_id = id,
                "ignored a reply that nobody waits for: its call gave up, or had a reply already"
            ),
        }
    }

    fn end(&self, error: Error) {
        let mut state = self.state();
        state.ended.get_or_insert(Arc::new(error));
        // All who wait hear it by losing their sender.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits for its reply. Dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Waiting {
    line: Arc<Line>,
    id: String,
    reply: oneshot::Receiver<Envelope>,
}

impl Waiting {
    /// The reply; `None` if the line has ended. Cancel safe, but not to be asked again after an answer.
    pub(crate) async fn reply(&mut self) -> Option<Envelope> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.line.state().waiting.remove(&self.id);
    }
}

/// Ends the line with its reader, also when that is dropped because its runtime goes down.
struct EndOnDrop(Arc<Line>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(closed());
    }
}

async fn read(line: Arc<Line>, mut consumer: Consumer) {
    let line = EndOnDrop(line);
    while let Some(delivery) = consumer.next().await {
        match delivery {
            Ok(delivery) => line.0.answer(delivery.envelope),
            Err(error) => line.0.end(error),
        }
    }
}
