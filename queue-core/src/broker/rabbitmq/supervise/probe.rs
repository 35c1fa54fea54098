//! Tells a node that has frozen from one that only has nothing to say. Used by `supervision`, where the URL names other hosts
//! to go to: a lone host is left to the heartbeat.
//!
//! While callers wait and nothing is confirmed, the node is asked something that no queue has a part in: to open a channel,
//! and if that is not answered, to let another connection in. The second question is needed because a server reads no more
//! from a connection of which a queue takes no more; a queue without a majority must not make us leave a healthy node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::session::Session;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::fault::{self, Cause};

/// For how long nothing may be heard before the node is asked.
const SILENCE: Duration = Duration::from_secs(2);
/// How long the node may take to open a channel.
const ON_CHANNEL: Duration = Duration::from_secs(1);
/// How long the node may take to let a connection in: this part of `socket_timeout`, by default 3.3 s.
const ON_CONNECTION: u32 = 3;
/// How often the node is asked at most.
const AGAIN: Duration = Duration::from_secs(5);

/// A task that waits for answers from the node that is published to.
pub(crate) trait Listener: Send {
    /// The moment since which nothing has been heard, if a task waits for an answer.
    fn silent_since(&self) -> Option<Instant>;
}

/// All tasks that wait for answers from that node.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<Box<dyn Listener>>>);

impl Listeners {
    /// Asks this one as well from now on.
    pub(crate) fn add(&self, listener: impl Listener + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// The moment since which nothing has been heard from the node, if a task waits for it.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(|listener| listener.silent_since()).min()
    }
}

/// Asks the node of one session.
pub(super) struct Probe {
    session: Arc<Session>,
    /// A channel that is still being opened. There is one at most: each that is not answered takes a number.
    opening: Option<JoinHandle<bool>>,
    asked: Option<Instant>,
    /// When the silence began that it is asked about.
    silence: Option<Instant>,
    /// The silence of which the log says that the node answered nevertheless.
    said: Option<Instant>,
}

impl Probe {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session, opening: None, asked: None, silence: None, said: None }
    }

    /// True if it is time to ask, when nothing has been heard since this moment.
    pub(super) fn is_due(&mut self, silent_since: Option<Instant>) -> bool {
        self.silence = silent_since;
        silent_since.is_some_and(|since| since.elapsed() >= SILENCE)
            && self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN)
    }

    /// True if nothing has been heard since the silence began that the node was asked about, when nothing has been heard
    /// since this moment.
    pub(super) fn lasts(&self, silent_since: Option<Instant>) -> bool {
        silent_since.zip(self.silence).is_some_and(|(now, then)| now <= then)
    }

    /// Asks the node, and returns true if it answers anything. Gives the probe back, to be asked again later.
    pub(super) async fn ask(mut self, dialer: Arc<Dialer>) -> (Self, bool) {
        let answers = self.opens_a_channel().await || self.lets_us_in(&dialer).await;
        self.asked = Some(Instant::now());
        (self, answers)
    }

    /// Logs once for each silence that the node has answered.
    pub(super) fn say_that_it_answers(&mut self) {
        let host = &self.session.link.host;
        if self.said != self.silence {
            tracing::info!(%host, "the node answers, though callers wait: a queue hangs, or what they wait for takes long");
            self.said = self.silence;
        } else {
            tracing::debug!(%host, "the node still answers");
        }
    }

    async fn opens_a_channel(&mut self) -> bool {
        let mut opening = self.opening.take().unwrap_or_else(|| {
            let session = self.session.clone();
            tokio::spawn(async move {
                match session.link.connection.create_channel().await {
                    Ok(channel) => {
                        let _ = channel.close(200, "OK".into()).await;
                        true
                    }
                    // lapin's own errors say nothing of the node: that there is no channel left, for example.
                    Err(error) => fault::protocol(&error).is_some(),
                }
            })
        });
        match tokio::time::timeout(ON_CHANNEL, &mut opening).await {
            Ok(opened) => opened.unwrap_or(false),
            Err(_) => {
                self.opening = Some(opening);
                false
            }
        }
    }

    async fn lets_us_in(&self, dialer: &Dialer) -> bool {
        let patience = dialer.target.deadline / ON_CONNECTION;
        match dialer.dial_one(self.session.link.at, "question", patience).await {
            Ok(link) => {
                link.close(ON_CHANNEL).await;
                true
            }
            // A node that refuses us has answered.
            Err(fault) => !matches!(fault.cause, Cause::Absent | Cause::Silent),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(opening) = &self.opening {
            opening.abort();
        }
    }
}
