//! Publishes many messages at once. Those that can go as one batch do: it is pipelined, and takes turns with what others
//! publish meanwhile. The others go each by itself, beside it.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::outgoing::Outcome;
use super::publishing::Publishing;
use crate::broker::Publish;
use crate::broker::amqp::check_publish;
use crate::broker::rabbitmq::delay::waiting::Waiting;
use crate::broker::reply::is_request;
use crate::error::PublishError;

impl Publishing {
    /// Publishes many; the outcomes stand in the order of the messages.
    pub(crate) async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Outcome> {
        let (now, since) = (self.settings.clock.now(), Instant::now());
        let is_delayed = |publish: &Publish| publish.not_before.is_some_and(|eta| eta > now);
        let is_sound = |publish: &Publish| check_publish(publish).is_ok() && !is_request(&publish.envelope);
        if publishes.iter().all(|publish| is_sound(publish) && !is_delayed(publish)) {
            return self.publisher.publish_all(publishes).await;
        }
        // Where it fails, each delayed message asks for it once more, and gets the error.
        let has_ladder = publishes.iter().any(is_delayed) && self.ladder.ensure().await.is_ok();
        let (count, mut batch, mut others, mut places) =
            (publishes.len(), Vec::new(), Vec::new(), Vec::new());
        // What went to the ladder with the batch, by its place there, as it was.
        let mut on_ladder = Vec::new();
        let clocks = self.ladder.now();
        for (at, mut publish) in publishes.into_iter().enumerate() {
            let mut is_for_batch = is_sound(&publish) && !is_delayed(&publish);
            if let Some(eta) = publish.not_before.filter(|_| {
                has_ladder && is_delayed(&publish) && is_sound(&publish) && publish.route.exchange.is_empty()
            }) {
                // The ladder took its time.
                let delay = eta.duration_since(now).unwrap_or_default().saturating_sub(since.elapsed());
                let waiting = Waiting::new(publish.route.routing_key.clone(), delay, clocks);
                let delayed = self.ladder.entry(publish.envelope.clone(), waiting, clocks);
                // With what the ladder adds to its headers it may be too large.
                is_for_batch = check_publish(&delayed).is_ok();
                if is_for_batch {
                    on_ladder.push((batch.len(), std::mem::replace(&mut publish, delayed)));
                }
            }
            if is_for_batch {
                batch.push(publish);
            } else {
                others.push(publish);
                places.push(at);
            }
        }
        let others = join_all(others.into_iter().map(|publish| self.publish(publish)));
        let (mut batch, others) = tokio::join!(self.publisher.publish_all(batch), others);
        // By itself a delayed message declares a rung again that has been deleted.
        on_ladder.retain(|(at, _)| matches!(batch[*at], Err(PublishError::Unroutable { .. })));
        let again = on_ladder.into_iter().map(async |(at, publish)| (at, self.publish(publish).await));
        for (at, outcome) in join_all(again).await {
            batch[at] = outcome;
        }
        let mut others = places.into_iter().zip(others).peekable();
        let mut batch = batch.into_iter();
        let outcome = |at| match others.next_if(|(place, _)| *place == at) {
            Some((_, outcome)) => outcome,
            None => batch.next().expect("each message is in one of the two"),
        };
        (0..count).map(outcome).collect()
    }
}
