//! Sends direct replies, without confirms and from the task that has them.
//!
//! A confirm would say nothing: RabbitMQ confirms a reply whose caller has gone as well, and a reply that is on its way
//! is in no queue. What counts is that it is on its way before its job is acked, so it has been written to the socket
//! when sending it returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicPublishOptions;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::publisher::Setup;
use super::wire::OPEN;
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::runtime::on;
use crate::broker::rabbitmq::message::address;
use crate::broker::rabbitmq::message::convert::{self, short};
use crate::broker::rabbitmq::supervise::pause::Waiters;
use crate::broker::rabbitmq::supervise::session::{Session, State};
use crate::broker::{Publish, reply};
use crate::error::{PublishError, chain};

/// The largest body that is sent without a confirm. Without one the worker could not see that the server found a reply too
/// large, and closed the channel with other replies on it.
const MAX_BODY: usize = 128 * 1024;

/// Sends direct replies, on a channel that it keeps.
pub(crate) struct Replier {
    /// The connection that is published on.
    connection: watch::Receiver<State>,
    publish_timeout: Duration,
    waiters: Arc<Waiters>,
    closing: Closing,
    handle: Handle,
    channel: Mutex<Option<ReplyChannel>>,
}

/// Of one session.
#[derive(Clone)]
struct ReplyChannel {
    session: Arc<Session>,
    channel: Arc<Channel>,
}

impl Replier {
    pub(crate) fn new(setup: &Setup, closing: Closing, handle: Handle) -> Self {
        let Setup { state, timeout, waiters, .. } = setup.clone();
        Self {
            connection: state,
            publish_timeout: timeout,
            waiters,
            closing,
            handle,
            channel: Mutex::default(),
        }
    }

    /// True if a message is one for here.
    pub(super) fn takes(publish: &Publish) -> bool {
        publish.route.exchange.is_empty()
            && reply::is_address(&publish.route.routing_key)
            && !publish.mandatory
            && publish.envelope.payload.len() <= MAX_BODY
            && !address::is_nonsense(publish)
    }

    fn channel(&self) -> MutexGuard<'_, Option<ReplyChannel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a reply, on the next connection if need be. `Ok` means that it is on its way.
    pub(super) async fn send(self: &Arc<Self>, publish: &Publish) -> Result<(), PublishError> {
        crate::runtime::require("a direct reply").map_err(|error| PublishError::Refused(chain(&error)))?;
        let since = Instant::now();
        let timeout = self.publish_timeout;
        let sending = async {
            loop {
                let open = self.open_channel().await?;
                if open.send(publish).await.is_ok() {
                    return Ok(());
                }
                // It may have arrived; a second reply does no harm.
                self.channel().take_if(|present| Arc::ptr_eq(&present.channel, &open.channel));
            }
        };
        tokio::time::timeout(timeout, sending).await.unwrap_or_else(|_| {
            let state = self.connection.borrow();
            let waited = since.elapsed();
            Err(match (&state.blocked, &state.down) {
                (Some(reason), _) => PublishError::Blocked { waited, reason: reason.clone() },
                (None, down) => {
                    PublishError::Unavailable { waited, source: down.clone().map(|error| error.into()) }
                }
            })
        })
    }

    /// The channel of the present session, or the next.
    async fn open_channel(self: &Arc<Self>) -> Result<ReplyChannel, PublishError> {
        if self.closing.closed.is_cancelled() {
            return Err(PublishError::Closed);
        }
        let present = self.channel().clone();
        if let Some(open) = present.filter(ReplyChannel::is_open) {
            return Ok(open);
        }
        let replier = self.clone();
        // lapin opens channels on the broker's runtime.
        on(&self.handle, async move {
            loop {
                let session = next_session(&replier).await?;
                let Ok(channel) = session.channel(OPEN).await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let open = ReplyChannel { session, channel: Arc::new(channel) };
                let mut present = replier.channel();
                // Another caller was first.
                return Ok(match present.as_ref().filter(|open| open.is_open()) {
                    Some(present) => present.clone(),
                    None => present.insert(open).clone(),
                });
            }
        })
        .await
    }
}

async fn next_session(replier: &Replier) -> Result<Arc<Session>, PublishError> {
    let mut state = replier.connection.clone();
    let _waits = replier.waiters.wait();
    let is_there = |state: &State| state.session.as_ref().is_some_and(|session| session.is_connected());
    let found = state.wait_for(is_there).await.map_err(|_| PublishError::Closed)?;
    found.session.clone().ok_or(PublishError::Closed)
}

impl ReplyChannel {
    fn is_open(&self) -> bool {
        self.channel.status().connected() && self.session.is_connected()
    }

    async fn send(&self, publish: &Publish) -> lapin::Result<()> {
        let Publish { route, envelope, .. } = publish;
        let sending = self.channel.basic_publish(
            short(&route.exchange),
            short(&route.routing_key),
            BasicPublishOptions::default(),
            &envelope.payload,
            convert::reply_properties(envelope),
        );
        // The answer is there at once; lapin keeps an answer without a caller.
        sending.await?.await.map(drop)
    }
}
