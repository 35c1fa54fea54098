//! Publishes what is delayed: to a rung of the ladder, from which it comes to `due` when that much of its delay is over. The
//! ladder is declared before its first use, and again when a rung is missing.

use std::time::Duration;

use tokio::time::Instant;

use super::publishing::Publishing;
use crate::broker::Publish;
use crate::broker::amqp::check_publish;
use crate::broker::rabbitmq::delay::waiting::{Now, Waiting};
use crate::envelope::Envelope;
use crate::error::{ErrorKind, PublishError, chain};
use crate::topology::Name;

impl Publishing {
    /// Publishes a job for `target` that waits for `delay` from now on.
    pub(crate) async fn publish_delayed(
        &self,
        envelope: Envelope,
        target: Name,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let since = Instant::now();
        let waited = self.settings.publish_timeout;
        self.ladder.ensure().await.map_err(|error| match error.kind() {
            ErrorKind::Closed => PublishError::Closed,
            ErrorKind::Connection => PublishError::Unavailable { waited, source: Some(error.into()) },
            _ => PublishError::Refused(format!("the delay queues cannot be declared: {}", chain(&error))),
        })?;
        let now = self.ladder.now();
        let waiting = Waiting::new(target, delay.saturating_sub(since.elapsed()), now);
        let publish = self.ladder.entry(envelope, waiting, now);
        check_publish(&publish)?;
        self.publish_on_ladder(publish).await
    }

    /// Publishes a job to the rung that is nearest below what is left of its delay. How large its headers are was
    /// [checked](check_publish) when it was enqueued, and not with what each rung adds: the limit leaves room for that.
    pub(crate) async fn publish_waiting(
        &self,
        envelope: Envelope,
        waiting: Waiting,
        now: Now,
    ) -> Result<(), PublishError> {
        let publish = self.ladder.entry(envelope, waiting, now);
        self.publish_on_ladder(publish).await
    }

    async fn publish_on_ladder(&self, publish: Publish) -> Result<(), PublishError> {
        let publisher = self.publisher_of(&publish)?;
        let (route, since) = (publish.route.clone(), Instant::now());
        match publisher.publish(publish.clone()).await {
            Err(PublishError::Unroutable { .. }) if self.restorer.restore(&route, since).await => {
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
