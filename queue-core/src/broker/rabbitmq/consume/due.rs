//! Routes what is delayed. A job waits on the rung of the ladder that is at most its delay, arrives in
//! `<namespace>.due`, and goes from there to its queue, or, if there is time left, to the next rung.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consumer::{self, Consuming};
use super::ledger::LOOK;
use crate::broker::missing::{Complaints, REMEDY, SET_ASIDE, next_look};
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::declare::restore::Restorer;
use crate::broker::rabbitmq::delay::waiting::Waiting;
use crate::broker::rabbitmq::publish::publishing::Publishing;
use crate::broker::{ConsumeOptions, Delivery, Publish, Settings};
use crate::envelope::{Envelope, header};
use crate::error::{ErrorKind, PublishError, Result, chain};
use crate::settlement::{Settlement, strip_broker_traces};
use crate::topology::{Name, rung_for};

/// How many delayed jobs are held at once.
const PREFETCH: u16 = 1000;
/// The pause before a queue that refused a job is tried again.
const REFUSED: Duration = Duration::from_secs(2);
/// After how long it is tried again to consume what could not be consumed.
const AGAIN: Duration = Duration::from_secs(10);
/// How long what is being moved may take when the router stops: more than the lowest rung and a confirm.
const FINISH: Duration = Duration::from_secs(1);

/// The parts of the broker that the router needs.
#[derive(Clone)]
pub(crate) struct Routing {
    pub(crate) settings: Arc<Settings>,
    pub(crate) consuming: Arc<Consuming>,
    pub(crate) publishing: Arc<Publishing>,
    pub(crate) restorer: Arc<Restorer>,
    pub(crate) closing: Closing,
}

/// Routes until `stop`. Started and ended by `router`: it runs while a consumer needs it.
pub(super) async fn route(with: Routing, stop: CancellationToken) {
    let router = Router { with, complaints: Mutex::default() };
    loop {
        match router.route_on(&stop).await {
            Err(error) if error.kind() != ErrorKind::Closed => {
                tracing::error!(error = %chain(&error), again = ?AGAIN, "delayed jobs cannot be routed; trying again");
            }
            _ => return,
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
            () = router.with.closing.closed.cancelled() => return,
        }
        // What is wrong shows when it is consumed.
        let _ = router.with.restorer.redeclare_all().await;
    }
}

struct Router {
    with: Routing,
    complaints: Mutex<Complaints>,
}

/// The result of a message in `due`.
enum Moved {
    Yes,
    /// The server has taken it back.
    Lost,
}

impl Router {
    /// Routes until `stop`, the end of the broker, or that of the queue.
    async fn route_on(&self, stop: &CancellationToken) -> Result<()> {
        // What is in `due` may have been there for long, which only clocks know.
        self.with.publishing.ladder.wait_for_clock().await;
        let options = ConsumeOptions::new(self.with.settings.namespace.due()).prefetch(PREFETCH);
        let mut consumer = consumer::start(self.with.consuming.clone(), options, None).await?;
        let mut moving = FuturesUnordered::new();
        loop {
            tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(delivery) => moving.push(self.forward(delivery?)),
                    None => break,
                },
                Some(()) = moving.next() => {}
                () = stop.cancelled() => break,
            }
        }
        consumer.stop();
        // What has been published and is not acked would be routed once more, and run twice.
        let finish = async { while moving.next().await.is_some() {} };
        let _ = tokio::time::timeout(FINISH, finish).await;
        // What is still held goes back to the queue, by being dropped.
        Ok(())
    }

    async fn forward(&self, delivery: Delivery) {
        let moved = tokio::select! {
            biased;
            moved = self.move_on(&delivery) => moved,
            // Also while it is published: a copy that goes out on the next connection would run beside the original.
            () = gone(&delivery) => Ok(Moved::Lost),
        };
        let settled = match moved {
            Ok(Moved::Yes) => delivery.settle(Settlement::Ack).await,
            Ok(Moved::Lost) => return,
            Err(PublishError::Closed) => delivery.settle(Settlement::Release).await,
            Err(error) => {
                tracing::warn!(%error, "a delayed job could not be moved; trying again");
                // Given back at once it would come at once.
                tokio::time::sleep(REFUSED).await;
                delivery.settle(Settlement::Release).await
            }
        };
        if let Err(error) = settled {
            tracing::debug!(%error, "a delayed job will come again");
        }
    }

    /// To its queue when its time has come, which is waited for if that is soon; else to the next rung.
    async fn move_on(&self, delivery: &Delivery) -> Result<Moved, PublishError> {
        // It comes again: moved twice, it would run twice.
        if delivery.is_lost() {
            return Ok(Moved::Lost);
        }
        let message = &delivery.envelope;
        let namespace = &self.with.settings.namespace;
        let now = self.with.publishing.ladder.now();
        let Some((job, waiting)) = Waiting::read(message, namespace, now) else {
            tracing::error!(job = %message.id, kept_in = %namespace.unroutable(), "a message in `{}` says no `q-target`", namespace.due());
            return self.set_aside(message.clone()).await.map(|()| Moved::Yes);
        };
        if rung_for(waiting.left).is_some() {
            return self.with.publishing.publish_waiting(job, waiting, now).await.map(|()| Moved::Yes);
        }
        self.with.settings.clock.sleep(waiting.left).await;
        if delivery.is_lost() {
            return Ok(Moved::Lost);
        }
        let moved = match self.deliver(&job, &waiting.target).await {
            Err(PublishError::Unroutable { .. }) => self.look_again(job, waiting).await,
            Err(PublishError::QueueFull { .. }) => {
                if self.complains(&waiting.target) {
                    tracing::warn!(queue = %waiting.target, "a queue refuses its delayed jobs, which wait and try again: it is full, or is being deleted");
                }
                let now = self.with.publishing.ladder.now();
                self.with
                    .publishing
                    .publish_waiting(job, Waiting::new(waiting.target, REFUSED, now), now)
                    .await
            }
            outcome => outcome,
        };
        moved.map(|()| Moved::Yes)
    }

    /// Publishes a job to its queue, which is declared again if it was ours.
    async fn deliver(&self, job: &Envelope, target: &Name) -> Result<(), PublishError> {
        let publish = || Publish::to_queue(target.clone(), job.clone());
        let since = Instant::now();
        match self.with.publishing.publisher.publish(publish()).await {
            Err(PublishError::Unroutable { .. })
                if self.with.restorer.restore(&publish().route, since).await =>
            {
                self.with.publishing.publisher.publish(publish()).await
            }
            published => published,
        }
    }

    /// Lets a job wait for its queue, which has gone; sets it aside when it has waited for long enough.
    async fn look_again(&self, job: Envelope, waiting: Waiting) -> Result<(), PublishError> {
        let unroutable = self.with.settings.namespace.unroutable();
        let Waiting { target, missing, .. } = waiting;
        let now = self.with.publishing.ladder.now();
        if let Some(pause) = next_look(missing) {
            if self.complains(&target) {
                tracing::warn!(queue = %target, job = %job.id, then_kept_in = %unroutable, "the queue of a delayed job does not exist: {REMEDY}");
            }
            let mut waiting = Waiting::new(target, pause, now);
            waiting.missing = missing + pause;
            return self.with.publishing.publish_waiting(job, waiting, now).await;
        }
        tracing::error!(queue = %target, job = %job.id, kept_in = %unroutable, "a delayed job is set aside: {SET_ASIDE}");
        // With where it should have gone, and its priority. Its time has come: put back, it runs at once.
        let (mut kept, _) =
            Waiting::new(target, Duration::ZERO, now).write(job, &self.with.settings.namespace, now);
        kept.headers.remove(header::WAIT);
        kept.headers.remove(header::ETA);
        self.set_aside(kept).await
    }

    /// Keeps what has nowhere to go.
    async fn set_aside(&self, mut message: Envelope) -> Result<(), PublishError> {
        strip_broker_traces(&mut message);
        self.deliver(&message, &self.with.settings.namespace.unroutable()).await
    }

    fn complains(&self, queue: &str) -> bool {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).is_due(queue)
    }
}

/// Waits until a delivery can no longer be settled.
async fn gone(delivery: &Delivery) {
    while !delivery.is_gone() {
        tokio::time::sleep(LOOK).await;
    }
}
