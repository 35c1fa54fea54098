//! Brings each reply to the call that waits for it. One reply consumer a client, opened by its first call, and anew by
//! the first call after it has ended.
//!
//! A task reads it. But a call that waits alone reads it itself, which saves waking that task for each call of a program
//! that makes one after another. As soon as there are two the task takes over. The last task that polled the consumer is woken
//! by it, so each change of hands is a poll.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, ConsumeOptions, Consumer, DIRECT_REPLY_TO, closed};
use crate::envelope::Envelope;
use crate::error::{Error, Result};

/// A client's replies.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The line that is open, or the last one if there was no call since it ended.
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
        let line = Arc::new(Line::new(consumer));
        self.readers.spawn(EndOnDrop(line.clone()).read());
        *self.slot() = Some(line.clone());
        Ok(line)
    }

    /// Opens another line for the next call, since this one leads nowhere.
    pub(crate) fn forget(&self, line: &Arc<Line>) {
        self.slot().take_if(|present| Arc::ptr_eq(present, line));
        line.reader.wake();
    }

    /// Waits until nothing is read any more. Only after the broker was closed, which ends the consumer.
    pub(crate) async fn ended(&self) {
        self.present().inspect(|line| line.reader.wake());
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

/// Ends the line when the last client is dropped.
impl Drop for Replies {
    fn drop(&mut self) {
        self.present().inspect(|line| line.end(closed()));
    }
}

/// One reply consumer's life, and who waits for what comes by it.
#[derive(Debug)]
pub(crate) struct Line {
    /// Locked before the state.
    consumer: Mutex<Consumer>,
    state: Mutex<LineState>,
    /// Wakes the task that reads.
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct LineState {
    /// By correlation id.
    waiting: HashMap<String, oneshot::Sender<Envelope>>,
    /// The reason why nothing more will come.
    ended: Option<Arc<Error>>,
}

impl Line {
    fn new(consumer: Consumer) -> Self {
        Self { consumer: Mutex::new(consumer), state: Mutex::default(), reader: AtomicWaker::new() }
    }

    /// Waits for the reply to the request of this correlation id. `None` if the line has ended.
    pub(crate) fn wait_for(self: &Arc<Self>, id: String) -> Option<Waiting> {
        self.catch_up();
        let mut state = self.state();
        if state.ended.is_some() {
            return None;
        }
        let (sender, reply) = oneshot::channel();
        state.waiting.insert(id.clone(), sender);
        // The task polls after this, and so after the last poll that the first one made alone.
        if state.waiting.len() == 2 {
            self.reader.wake();
        }
        drop(state);
        Some(Waiting { line: self.clone(), id, reply })
    }

    /// Reads items that arrived while no call waited, and so perhaps woke no task: above all the end.
    fn catch_up(&self) {
        if !self.state().waiting.is_empty() {
            return;
        }
        let mut consumer = self.consumer();
        // Asked again under the lock: who has come since, or the task for them, may have polled, and to poll now would
        // take their wake-up. Who comes later polls later.
        if self.state().waiting.is_empty() {
            let mut cx = Context::from_waker(Waker::noop());
            while self.state().ended.is_none() && self.poll(&mut consumer, &mut cx).is_ready() {}
        }
    }

    /// Reads for a call that waits alone, until it has its reply.
    fn poll_alone(&self, id: &str, cx: &mut Context<'_>) {
        let is_alone = || {
            let state = self.state();
            state.waiting.len() == 1 && state.waiting.contains_key(id)
        };
        let mut consumer = self.consumer();
        while is_alone() && self.poll(&mut consumer, cx).is_ready() {}
    }

    /// Reads one reply, or the end.
    fn poll(&self, consumer: &mut Consumer, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(consumer.poll_next(cx)) {
            Some(Ok(delivery)) => self.answer(delivery.envelope),
            Some(Err(error)) => self.end(error),
            None => self.end(closed()),
        }
        Poll::Ready(())
    }

    /// The reason why it has ended.
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
                "ignored a reply without a call: the call gave up, or had a reply already"
            ),
        }
    }

    fn end(&self, error: Error) {
        let mut state = self.state();
        state.ended.get_or_insert(Arc::new(error));
        // All waiting calls see it, since their sender is dropped.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
        self.reader.wake();
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consumer(&self) -> MutexGuard<'_, Consumer> {
        self.consumer.lock().unwrap_or_else(PoisonError::into_inner)
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
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reply) = Pin::new(&mut self.reply).poll(cx) {
                return Poll::Ready(reply.ok());
            }
            self.line.poll_alone(&self.id, cx);
            Pin::new(&mut self.reply).poll(cx).map(Result::ok)
        })
        .await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let unanswered = self.line.state().waiting.remove(&self.id);
        if unanswered.is_some() {
            // It may have been the one that reads.
            self.line.reader.wake();
        }
    }
}

/// Ends the line with its reader, also when that is dropped because its runtime goes down.
struct EndOnDrop(Arc<Line>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(closed());
        // Who waits keeps the line a little longer, and the next one wants to be the only reader.
        self.0.consumer().stop();
    }
}

impl EndOnDrop {
    /// Reads until nothing more will come.
    async fn read(self) {
        let line = &self.0;
        std::future::poll_fn(|cx| {
            line.reader.register(cx.waker());
            while line.state().ended.is_none() {
                ready!(line.poll(&mut line.consumer(), cx));
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::broker::{ConsumerHandle, reply};

    /// Answers each request.
    async fn answer(replies: ConsumerHandle, mut requests: mpsc::UnboundedReceiver<String>) {
        while let Some(id) = requests.recv().await {
            let mut envelope = Envelope::new("1");
            envelope.correlation_id = Some(id);
            replies.send(Ok(reply::delivery(envelope)));
        }
    }

    async fn call_often(line: Arc<Line>, requests: mpsc::UnboundedSender<String>, name: usize) {
        for number in 0..20_000 {
            let id = format!("{name}-{number}");
            let mut waiting = line.wait_for(id.clone()).expect("the line is open");
            requests.send(id.clone()).expect("somebody answers");
            let reply = tokio::time::timeout(Duration::from_secs(10), waiting.reply()).await;
            let reply = reply.unwrap_or_else(|_| panic!("nobody read the reply to {id}"));
            assert_eq!(reply.expect("the line is open").correlation_id, Some(id));
        }
    }

    /// One reads for itself, more have the task read; and with three it changes all the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_reply_is_read_however_many_wait() {
        let (replies, consumer) = Consumer::channel();
        let line = Arc::new(Line::new(consumer));
        let reading = tokio::spawn(EndOnDrop(line.clone()).read());
        let (requests, asked) = mpsc::unbounded_channel();
        tokio::spawn(answer(replies, asked));

        let calls = (0..3).map(|name| tokio::spawn(call_often(line.clone(), requests.clone(), name)));
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("every call has its reply");
        }

        drop(requests);
        line.reader.wake();
        reading.await.expect("it ends with the consumer");
    }

    #[tokio::test]
    async fn line_whose_reader_was_dropped_is_consumed_no_more_though_somebody_waits() {
        let (replies, consumer) = Consumer::channel();
        let line = Arc::new(Line::new(consumer));
        let reader = EndOnDrop(line.clone());
        let mut waiting = line.wait_for("a".to_owned()).expect("the line is open");

        drop(reader);

        assert!(replies.is_stopped());
        assert!(waiting.reply().await.is_none());
        assert!(line.wait_for("b".to_owned()).is_none());
    }
}
