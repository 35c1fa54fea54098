//! How messages move: published, routed, refused, dead-lettered, fallen due. AMQP's rules, once for all brokers that
//! keep queues themselves; each brings its [`Queues`].
//!
//! A trait, and not a plan as data like `plan` and `declare`: where a message goes depends on what each step finds, and what one
//! queue drops dies on its way into the next.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::death::{DeathReason, die, is_cycle};
use super::rules::{Overflowing, QueueRules};
use crate::broker::missing::{Complaints, REMEDY, SET_ASIDE, next_look};
use crate::envelope::{Envelope, HeaderValue, header};
use crate::error::PublishError;
use crate::routing::Exchanges;
use crate::topology::{Name, Route};

/// A message as it was published. Queues that get the same message share it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) envelope: Envelope,
    pub(crate) exchange: Name,
    pub(crate) routing_key: Name,
}

/// A message to publish, in the form in which it can be shared.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) message: Arc<Message>,
    pub(crate) mandatory: bool,
    pub(crate) not_before: Option<SystemTime>,
}

impl From<crate::broker::Publish> for Published {
    fn from(publish: crate::broker::Publish) -> Self {
        let crate::broker::Publish { route, envelope, mandatory, not_before } = publish;
        let message = Message { envelope, exchange: route.exchange, routing_key: route.routing_key };
        Self { message: Arc::new(message), mandatory, not_before }
    }
}

/// A message that waits for its time outside of any queue.
#[derive(Debug)]
pub(crate) enum Delayed {
    /// A job for a queue.
    Job {
        target: Arc<str>,
        envelope: Envelope,
        /// Where it goes if its queue has gone.
        unroutable: Name,
    },
    /// A message that died in `queue` and could not be dead-lettered yet.
    Dead { queue: Arc<str>, route: Route, envelope: Envelope },
}

#[cfg(feature = "memory")]
impl Delayed {
    /// The queue it is for, or the one it died in.
    pub(crate) fn queue(&self) -> &str {
        match self {
            Self::Job { target: queue, .. } | Self::Dead { queue, .. } => queue,
        }
    }

    pub(crate) fn envelope(&self) -> &Envelope {
        match self {
            Self::Job { envelope, .. } | Self::Dead { envelope, .. } => envelope,
        }
    }
}

/// A message that died in a queue, on its way to the queue's dead-letter exchange.
#[derive(Debug)]
pub(crate) struct Death {
    queue: Arc<str>,
    reason: DeathReason,
    message: Arc<Message>,
    /// Where it goes; `None` drops it.
    route: Option<Route>,
    /// True if it is kept until it can go there.
    is_kept: bool,
}

/// A keeper of queues and their messages. All its calls are part of one transaction of the broker.
pub(crate) trait Queues {
    /// How these name a queue.
    type Queue: Copy + Ord + Hash;
    /// How they themselves may fail.
    type Fault;

    fn now(&self) -> SystemTime;
    fn exchanges(&self) -> &Exchanges<Self::Queue>;
    /// The queue of this name.
    fn find(&self, name: &str) -> Option<Self::Queue>;
    /// The name and the rules of a queue, which may have gone.
    fn describe(&self, queue: Self::Queue) -> Option<(Arc<str>, &QueueRules)>;
    /// True if a queue is at its limit and refuses a publisher of one more message of so many bytes.
    fn refuses(&mut self, queue: Self::Queue, bytes: usize) -> Result<bool, Self::Fault>;
    /// Puts a message into a queue, behind the others of its level. What the queue drops for it has died.
    fn enqueue(&mut self, queue: Self::Queue, message: &Arc<Message>) -> Result<(), Self::Fault>;
    /// Lets a message wait until `due`.
    fn delay(&mut self, due: SystemTime, delayed: Delayed) -> Result<(), Self::Fault>;
    /// Lets a message wait for so long, until what cannot take it can.
    fn wait_again(&mut self, delayed: Delayed, pause: Duration) -> Result<(), Self::Fault>;
    /// The queue for delayed jobs whose own queue has gone, declared if need be.
    fn unroutable(&mut self, name: &Name) -> Result<Option<Self::Queue>, Self::Fault>;
    /// Messages that have died and are not dead-lettered yet.
    fn deaths(&mut self) -> &mut VecDeque<Death>;
    /// Of which queues it has been said that they are missing.
    fn complaints(&mut self) -> &mut Complaints;
}

/// How long a message waits before it is tried again on a queue that could not take it.
const AGAIN: Duration = Duration::from_secs(1);

/// Publishes a message. `unroutable` says where a delayed job goes if its queue has gone.
///
/// # Errors
/// The outer one is that of the queues, the inner one the publisher's.
pub(crate) fn publish<Q: Queues>(
    queues: &mut Q,
    publish: &Published,
    unroutable: impl FnOnce(&Q) -> Name,
) -> Result<Result<(), PublishError>, Q::Fault> {
    let Message { envelope, exchange, routing_key } = &*publish.message;
    if let Some(due) = publish.not_before {
        if !exchange.is_empty() {
            return Ok(Err(PublishError::Invalid(format!(
                "a message to exchange `{exchange}` cannot be delayed: delay one to a queue"
            ))));
        }
        if due > queues.now() {
            let unroutable = unroutable(queues);
            delay_job(queues, due, Arc::from(&**routing_key), envelope.clone(), unroutable)?;
            return Ok(Ok(()));
        }
    }
    let (mut several, one);
    let targets = if exchange.is_empty() {
        one = queues.find(routing_key);
        if one.is_none() && publish.mandatory {
            return Ok(Err(nothing_bound(exchange, routing_key)));
        }
        one.as_slice()
    } else {
        several = Vec::new();
        let is_there = queues.exchanges().route(exchange, routing_key, &envelope.headers, &mut several);
        if several.is_empty() && (publish.mandatory || !is_there) {
            return Ok(Err(nothing_bound(exchange, routing_key)));
        }
        several.as_slice()
    };
    if is_refused(queues, targets, &publish.message)? {
        return Ok(Err(PublishError::QueueFull { routing_key: routing_key.clone().into_owned() }));
    }
    for queue in targets {
        queues.enqueue(*queue, &publish.message)?;
    }
    bury(queues)?;
    Ok(Ok(()))
}

/// Lets a job for a queue wait until `due`.
pub(crate) fn delay_job<Q: Queues>(
    queues: &mut Q,
    due: SystemTime,
    target: Arc<str>,
    envelope: Envelope,
    unroutable: Name,
) -> Result<(), Q::Fault> {
    // Where an operator looks for what went astray is there before anything can.
    queues.unroutable(&unroutable)?;
    queues.delay(due, Delayed::Job { target, envelope, unroutable })
}

/// True if one of the queues is at its limit and refuses. Nothing is kept then, in no queue: the publisher will try
/// again, and the others must not get the message twice.
fn is_refused<Q: Queues>(
    queues: &mut Q,
    targets: &[Q::Queue],
    message: &Arc<Message>,
) -> Result<bool, Q::Fault> {
    let bytes = message.envelope.payload.len();
    let mut is_refused = false;
    for queue in targets {
        if !queues.refuses(*queue, bytes)? {
            continue;
        }
        is_refused = true;
        let overflow = queues.describe(*queue).map(|(_, rules)| rules.overflow);
        if overflow == Some(Overflowing::RejectAndDeadLetter) {
            // The publisher is told; the dead letter is a courtesy, and not kept where nothing takes it.
            let death = death(queues, *queue, DeathReason::MaxLength, message.clone());
            queues.deaths().extend(death.map(|death| Death { is_kept: false, ..death }));
        }
    }
    bury(queues)?;
    Ok(is_refused)
}

fn death<Q: Queues>(
    queues: &Q,
    queue: Q::Queue,
    reason: DeathReason,
    message: Arc<Message>,
) -> Option<Death> {
    let (name, rules) = queues.describe(queue)?;
    let route = rules.dead_letter_route(&message.routing_key);
    Some(Death { queue: name, reason, route, message, is_kept: rules.keeps_dead })
}

/// A message that its queue has let go of dies there. [`bury`] takes it on.
pub(crate) fn dies<Q: Queues>(queues: &mut Q, queue: Q::Queue, reason: DeathReason, message: Arc<Message>) {
    let death = death(queues, queue, reason, message);
    queues.deaths().extend(death);
}

/// Dead-letters all that has died, also what dies of that. It comes to an end because no message dies in circles.
pub(crate) fn bury<Q: Queues>(queues: &mut Q) -> Result<(), Q::Fault> {
    while let Some(Death { queue, reason, message, route, is_kept }) = queues.deaths().pop_front() {
        let Some(route) = route else {
            tracing::debug!(
                queue = &*queue,
                job = message.envelope.id.as_str(),
                reason = reason.as_str(),
                "a message died in a queue without dead-letter exchange"
            );
            continue;
        };
        let Message { mut envelope, exchange, routing_key } = Arc::unwrap_or_clone(message);
        die(&mut envelope, &queue, reason, &exchange, &routing_key, queues.now());
        dead_letter(queues, queue, route, envelope, is_kept)?;
    }
    Ok(())
}

/// Publishes a dead message, without a publisher that waits: where no queue takes it, it is dropped or tried again later.
fn dead_letter<Q: Queues>(
    queues: &mut Q,
    queue: Arc<str>,
    route: Route,
    envelope: Envelope,
    is_kept: bool,
) -> Result<(), Q::Fault> {
    let mut targets = Vec::new();
    if route.exchange.is_empty() {
        targets.extend(queues.find(&route.routing_key));
    } else {
        queues.exchanges().route(&route.exchange, &route.routing_key, &envelope.headers, &mut targets);
    }
    let reached = targets.len();
    targets.retain(|target| queues.describe(*target).is_some_and(|(name, _)| !is_cycle(&envelope, &name)));
    if targets.len() < reached {
        tracing::warn!(
            queue = &*queue,
            job = envelope.id.as_str(),
            "dropped a message that went in circles through dead-letter exchanges"
        );
    }
    let bytes = envelope.payload.len();
    let mut with_room = Vec::with_capacity(targets.len());
    for target in &targets {
        if !queues.refuses(*target, bytes)? {
            with_room.push(*target);
        }
    }
    if is_kept && (reached == 0 || with_room.len() < targets.len()) {
        return queues.wait_again(Delayed::Dead { queue, route, envelope }, AGAIN);
    }
    if reached == 0 {
        tracing::warn!(
            queue = &*queue,
            job = envelope.id.as_str(),
            exchange = &*route.exchange,
            "dropped a dead message, because its dead-letter exchange leads to no queue"
        );
    }
    let message = Arc::new(Message { envelope, exchange: route.exchange, routing_key: route.routing_key });
    for target in with_room {
        queues.enqueue(target, &message)?;
    }
    Ok(())
}

/// A message's time has come: it goes into its queue, or on its way to the dead letters. Calls for [`bury`].
pub(crate) fn fall_due<Q: Queues>(queues: &mut Q, delayed: Delayed) -> Result<(), Q::Fault> {
    let (target, mut envelope, unroutable) = match delayed {
        Delayed::Job { target, envelope, unroutable } => (target, envelope, unroutable),
        Delayed::Dead { queue, route, envelope } => {
            return dead_letter(queues, queue, route, envelope, true);
        }
    };
    let missing =
        envelope.headers.remove(header::MISSING).as_ref().and_then(HeaderValue::as_int).unwrap_or(0);
    let queue = match queues.find(&target) {
        Some(queue) => queue,
        None => {
            let missing = Duration::from_millis(u64::try_from(missing).unwrap_or(0));
            if let Some(pause) = next_look(missing) {
                return look_again(
                    queues,
                    Delayed::Job { target, envelope, unroutable },
                    missing + pause,
                    pause,
                );
            }
            tracing::error!(
                queue = &*target,
                job = envelope.id.as_str(),
                kept_in = &*unroutable,
                "a delayed job is set aside: {SET_ASIDE}"
            );
            envelope.headers.insert(header::TARGET, &*target);
            let Some(queue) = queues.unroutable(&unroutable)? else {
                return queues.wait_again(Delayed::Job { target, envelope, unroutable }, AGAIN);
            };
            queue
        }
    };
    if queues.refuses(queue, envelope.payload.len())? {
        return queues.wait_again(Delayed::Job { target, envelope, unroutable }, AGAIN);
    }
    let routing_key = Name::Owned(target.to_string());
    queues.enqueue(queue, &Arc::new(Message { envelope, exchange: Name::Borrowed(""), routing_key }))
}

/// Lets a job wait for its queue, which has gone: `missing` in all when it is looked for again.
fn look_again<Q: Queues>(
    queues: &mut Q,
    mut delayed: Delayed,
    missing: Duration,
    pause: Duration,
) -> Result<(), Q::Fault> {
    if let Delayed::Job { target, envelope, unroutable } = &mut delayed {
        if queues.complaints().is_due(target) {
            tracing::warn!(
                queue = &**target,
                job = envelope.id.as_str(),
                then_kept_in = &**unroutable,
                "the queue of a delayed job does not exist: {REMEDY}"
            );
        }
        let millis = i64::try_from(missing.as_millis()).unwrap_or(i64::MAX);
        envelope.headers.insert(header::MISSING, millis);
    }
    queues.wait_again(delayed, pause)
}

/// No queue takes a message.
pub(crate) fn nothing_bound(exchange: &Name, routing_key: &Name) -> PublishError {
    PublishError::Unroutable {
        exchange: exchange.clone().into_owned(),
        routing_key: routing_key.clone().into_owned(),
    }
}
