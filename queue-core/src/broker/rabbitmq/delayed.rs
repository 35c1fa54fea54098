//! Publishes what is delayed: to a rung of the ladder, from which it comes to `due` when that much of its delay is over. The
//! ladder is declared before its first use, and again when a rung is missing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::shared::Shared;
use super::waiting::{Now, Waiting};
use crate::broker::Publish;
use crate::broker::amqp::check_publish;
use crate::envelope::Envelope;
use crate::error::{ErrorKind, PublishError, Result, chain};
use crate::topology::{Name, delay_ladder};

impl Core {
    /// Declares the delay ladder, once.
    pub(super) async fn ensure_ladder(self: &Arc<Self>) -> Result<()> {
        let Shared { settings, .. } = &*self.shared;
        let declare = async {
            self.declare(delay_ladder(&settings.namespace)).await?;
            // Nobody else is at it.
            let _ = self.ladder.set(());
            Ok(())
        };
        let is_declared = || self.ladder.get().is_some();
        self.declaring_ladder.once(settings.publish_timeout, is_declared, declare).await
    }

    /// The time, by which delays go.
    pub(super) fn now(self: &Arc<Self>) -> Now {
        Now { wall: self.shared.settings.clock.now(), server: self.server_clock() }
    }

    /// Publishes a job for `target` that waits for `delay` from now on.
    pub(super) async fn publish_delayed(
        self: &Arc<Self>,
        envelope: Envelope,
        target: Name,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let since = Instant::now();
        let waited = self.shared.settings.publish_timeout;
        self.ensure_ladder().await.map_err(|error| match error.kind() {
            ErrorKind::Closed => PublishError::Closed,
            ErrorKind::Connection => PublishError::Unavailable { waited, source: Some(error.into()) },
            _ => PublishError::Refused(format!("the delay queues cannot be declared: {}", chain(&error))),
        })?;
        let now = self.now();
        let waiting = Waiting::new(target, delay.saturating_sub(since.elapsed()), now);
        let publish = self.on_ladder(envelope, waiting, now);
        check_publish(&publish)?;
        self.publish_on_ladder(publish).await
    }

    /// The message by which a job waits: to the rung that is nearest below what is left of its delay.
    pub(super) fn on_ladder(&self, envelope: Envelope, waiting: Waiting, now: Now) -> Publish {
        let (envelope, rung) = waiting.write(envelope, &self.shared.settings.namespace, now);
        Publish::to_queue(rung, envelope)
    }

    /// Publishes a job to the rung that is nearest below what is left of its delay. How large its headers are was
    /// [checked](check_publish) when it was enqueued, and not with what each rung adds: the limit leaves room for that.
    pub(super) async fn publish_waiting(
        self: &Arc<Self>,
        envelope: Envelope,
        waiting: Waiting,
        now: Now,
    ) -> Result<(), PublishError> {
        let publish = self.on_ladder(envelope, waiting, now);
        self.publish_on_ladder(publish).await
    }

    async fn publish_on_ladder(self: &Arc<Self>, publish: Publish) -> Result<(), PublishError> {
        let publisher = self.publisher_of(&publish)?;
        let (route, since) = (publish.route.clone(), Instant::now());
        match publisher.publish(publish.clone()).await {
            Err(PublishError::Unroutable { .. }) if self.restore(&route, since).await => {
                publisher.publish(publish).await
            }
            // It is not the job's own queue that is missing.
            Err(PublishError::Unroutable { .. }) => Err(PublishError::Refused(format!(
                "delay queue `{}` was deleted and cannot be declared again; the log says why",
                route.routing_key
            ))),
            published => published,
        }
    }
}
