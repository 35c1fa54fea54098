//! Seals envelopes: makes the message of a job, a call or an event. Every message that this program originates is made
//! here, whichever way it goes: to a broker, in a batch, or as a row of an outbox.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::broker::Publish;
use crate::call::wire;
use crate::clock::Clock;
use crate::envelope::{Envelope, Headers, JobId, header};
use crate::error::{EnqueueError, EventError, PublishError};
use crate::event::Event;
use crate::task::{Task, TaskOptions};
use crate::topology::{MAX_NAME, QueueSpec};

/// The largest message that RabbitMQ takes by default since 4.0: <https://www.rabbitmq.com/docs/limits>.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// The options of a message, as the user has set them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) due: Due,
    /// `None` is the task's.
    pub(crate) priority: Option<u8>,
    /// `None` is a new one.
    pub(crate) id: Option<JobId>,
    pub(crate) headers: Headers,
}

/// When a job is due.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Due {
    #[default]
    Now,
    /// Counted from when it is sealed.
    After(Duration),
    At(SystemTime),
}

impl Due {
    fn not_before(self, now: SystemTime) -> Result<Option<SystemTime>, PublishError> {
        match self {
            Self::Now => Ok(None),
            Self::At(moment) => Ok(Some(moment)),
            Self::After(delay) => now
                .checked_add(delay)
                .map(Some)
                .ok_or_else(|| PublishError::Invalid(format!("a delay of {delay:?} ends beyond all time"))),
        }
    }
}

/// The constants of a task's type, as a value. Code that takes this instead of the type is compiled once, not once a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) task: &'static str,
    pub(crate) queue: &'static QueueSpec,
    options: &'static TaskOptions,
}

impl Kind {
    pub(crate) fn of<T: Task>() -> Self {
        Self { task: T::NAME, queue: T::queue(), options: T::options() }
    }
}

/// Seals by a clock, and up to a size of payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealer<'c> {
    pub(crate) clock: &'c Clock,
    pub(crate) max_payload: usize,
}

#[cfg(feature = "sqlite-system")]
impl<'c> Sealer<'c> {
    /// Seals what has no client, by this clock and up to the size that a client allows by default.
    pub(crate) fn without_client(clock: &'c Clock) -> Self {
        Self { clock, max_payload: MAX_PAYLOAD }
    }
}

impl Sealer<'_> {
    /// The message of a job, to its task's queue.
    pub(crate) fn job<T: Task>(self, payload: &T, options: Options) -> Result<Publish, EnqueueError> {
        self.job_around(Kind::of::<T>(), encode(payload)?, options)
    }

    /// The message of a job whose payload is written already.
    pub(crate) fn job_around(
        self,
        kind: Kind,
        payload: Bytes,
        options: Options,
    ) -> Result<Publish, EnqueueError> {
        let now = self.clock.now();
        let seal = || {
            let not_before = options.due.not_before(now)?;
            let envelope = envelope(kind, payload, options, now)?;
            self.check(&envelope)?;
            let mut publish = Publish::to_queue(kind.queue.name().clone(), envelope);
            publish.not_before = not_before;
            Ok(publish)
        };
        seal().map_err(EnqueueError::Publish)
    }

    /// The request of a call whose caller waits for so long.
    pub(crate) fn request<T: Task>(
        self,
        payload: &T,
        options: Options,
        timeout: Duration,
    ) -> Result<Publish, EnqueueError> {
        let (kind, payload, now) = (Kind::of::<T>(), encode(payload)?, self.clock.now());
        let seal = || {
            let mut envelope = envelope(kind, payload, options, now)?;
            wire::make_request(&mut envelope, now.checked_add(timeout));
            self.check(&envelope)?;
            Ok(Publish::to_queue(kind.queue.name().clone(), envelope))
        };
        seal().map_err(EnqueueError::Publish)
    }

    /// The message of an event, to its exchange.
    pub(crate) fn event<E: Event>(self, event: &E, options: Options) -> Result<Publish, EventError> {
        refuse_own_headers(&options.headers).map_err(EventError::Publish)?;
        let payload =
            event.encode_body(E::FORMAT).map_err(|source| EventError::Encode { event: E::NAME, source })?;
        let mut headers = event.headers();
        for (name, value) in options.headers.iter() {
            headers.insert(name, value.clone());
        }
        number_chosen_id(&options.id, &mut headers);
        let mut envelope = Envelope::with_id(options.id.unwrap_or_default(), payload.into());
        envelope.task = Some(E::NAME.to_owned());
        envelope.content_type = Some(E::FORMAT.content_type().to_owned());
        envelope.enqueued_at = Some(self.clock.now());
        envelope.headers = headers;
        let key = event.routing_key().map_err(EventError::Publish)?;
        self.check(&envelope).map_err(EventError::Publish)?;
        Ok(Publish::to_exchange(E::EXCHANGE, key, envelope))
    }

    /// Completes a message that the user has written as it is.
    pub(crate) fn raw(self, envelope: &mut Envelope) -> Result<(), PublishError> {
        refuse_own_headers(&envelope.headers)?;
        self.check(envelope)?;
        // That of a job, which names one message: this is another one.
        if envelope.id.is_generated() {
            envelope.headers.insert(header::SERIAL, fastrand::i64(..));
        }
        envelope.enqueued_at = Some(self.clock.now());
        Ok(())
    }

    /// Refuses a message that is larger than the sender's settings and AMQP allow.
    fn check(self, envelope: &Envelope) -> Result<(), PublishError> {
        let (size, limit) = (envelope.payload.len(), self.max_payload);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        check_sizes(envelope)
    }
}

/// Writes a payload in its task's format.
pub(crate) fn encode<T: Task>(payload: &T) -> Result<Bytes, EnqueueError> {
    let written = T::options().format.encode(payload);
    written.map(Bytes::from).map_err(|source| EnqueueError::Encode { task: T::NAME, source })
}

fn envelope(
    kind: Kind,
    payload: Bytes,
    mut options: Options,
    now: SystemTime,
) -> Result<Envelope, PublishError> {
    refuse_own_headers(&options.headers)?;
    number_chosen_id(&options.id, &mut options.headers);
    let task = kind.options;
    let mut envelope = Envelope::with_id(options.id.unwrap_or_default(), payload);
    envelope.task = Some(kind.task.to_owned());
    envelope.content_type = Some(task.format.content_type().to_owned());
    envelope.priority = options.priority.or(task.priority);
    envelope.enqueued_at = Some(now);
    envelope.headers = options.headers;
    if task.version > 1 {
        envelope.headers.insert(header::VERSION, task.version);
    }
    Ok(envelope)
}

/// Numbers a message whose id a user has chosen, so that a worker can tell two of them apart.
fn number_chosen_id(id: &Option<JobId>, headers: &mut Headers) {
    if id.is_some() {
        headers.insert(header::SERIAL, fastrand::i64(..));
    }
}

/// A user's header with a name of ours would be taken for what we wrote.
fn refuse_own_headers(headers: &Headers) -> Result<(), PublishError> {
    match headers.iter().find(|(name, _)| name.starts_with("q-")) {
        None => Ok(()),
        Some((name, _)) => Err(PublishError::Invalid(format!(
            "header `{name}` begins with `q-`, which is kept for Leveret: rename it"
        ))),
    }
}

/// AMQP carries names of at most 255 bytes, and all headers in one frame.
fn check_sizes(envelope: &Envelope) -> Result<(), PublishError> {
    let too_long = |what: &str, text: &str| {
        let len = text.len();
        PublishError::Invalid(format!("{what} has {len} bytes; AMQP carries at most {MAX_NAME}: shorten it"))
    };
    if envelope.id.as_str().len() > MAX_NAME {
        return Err(too_long("the job id", envelope.id.as_str()));
    }
    if let Some((name, _)) = envelope.headers.iter().find(|(name, _)| name.len() > MAX_NAME) {
        return Err(too_long("a header's name", name));
    }
    let size = envelope.headers.wire_size();
    if size > Headers::MAX_SIZE {
        let limit = Headers::MAX_SIZE;
        return Err(PublishError::Invalid(format!(
            "the headers take {size} bytes, over the limit of {limit}; put large values into the payload"
        )));
    }
    Ok(())
}
