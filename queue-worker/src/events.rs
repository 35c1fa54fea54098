//! The events of a worker's jobs. Written by `execute` and `settle`; read by the program.
//!
//! Events are not stored: a slow reader misses some, and gets their number instead.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use queue_core::envelope::JobId;
use queue_core::settlement::Reason;
use queue_core::topology::Name;
use tokio::sync::mpsc;

/// The job and attempt of a [`JobEvent`].
///
/// ```
/// # use leveret::{JobEvent, Worker};
/// # fn f(worker: Worker) -> Worker {
/// worker.on_event(|event| {
///     if let JobEvent::Dead { job, reason, .. } = event {
///         tracing::error!(task = job.task(), queue = job.queue(), id = %job.id, %reason, "page the operator");
///     }
/// })
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobInfo {
    /// The job's id, the same through all its attempts.
    pub id: JobId,
    /// The task that it names, known to this worker or not. Empty for a message that names none, in a queue without a default
    /// task.
    pub task: Name,
    /// The queue that it came from.
    pub queue: Name,
    /// The number of the attempt, from 1.
    pub attempt: u32,
}

impl JobInfo {
    /// The task that it names, as text.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The queue that it came from, as text.
    pub fn queue(&self) -> &str {
        &self.queue
    }
}

/// An event of a job's life on this worker. Retries, snoozes and dead letters are reported after the broker has confirmed the
/// copy; successes and releases when the ack was sent, since AMQP does not confirm acks.
///
/// ```
/// use leveret::JobEvent;
///
/// fn count(event: &JobEvent) -> &'static str {
///     match event {
///         JobEvent::Succeeded { .. } => "jobs_succeeded_total",
///         JobEvent::Retried { .. } => "jobs_retried_total",
///         JobEvent::Dead { .. } => "jobs_dead_total",
///         _ => "jobs_other_total",
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum JobEvent {
    /// The handler is about to run. Not emitted for messages that no handler of this worker can take.
    Started {
        /// The job.
        job: JobInfo,
    },
    /// The handler succeeded, and the job is gone from the broker.
    Succeeded {
        /// The job.
        job: JobInfo,
        /// How long the attempt took.
        took: Duration,
    },
    /// The attempt failed; the job runs again.
    Retried {
        /// The job.
        job: JobInfo,
        /// How long the attempt took.
        took: Duration,
        /// The shortest wait before it runs again.
        after: Duration,
        /// The reason of the failure.
        reason: Reason,
    },
    /// The handler put the job off: it comes again, and this counts neither as an attempt nor as a failure.
    Snoozed {
        /// The job.
        job: JobInfo,
        /// How long the handler took.
        took: Duration,
        /// The moment from which it may run again.
        until: SystemTime,
    },
    /// The job is a dead letter now.
    Dead {
        /// The job.
        job: JobInfo,
        /// How long the attempt took.
        took: Duration,
        /// The reason of the failure.
        reason: Reason,
    },
    /// The job failed, and its caller was told. A call is not tried again, and is no dead letter.
    CallFailed {
        /// The job.
        job: JobInfo,
        /// How long the attempt took.
        took: Duration,
        /// The reason of the failure.
        reason: Reason,
    },
    /// The job's caller had given up before the job began. It was not run, and is deleted from the broker.
    Abandoned {
        /// The job.
        job: JobInfo,
    },
    /// The job was not run, or was cut off. It went back to its queue because the worker stops, or waits to run alone because the
    /// processes that held it before have ended.
    Released {
        /// The job.
        job: JobInfo,
    },
    /// The settlement did not reach the broker, which will deliver the job again.
    SettleFailed {
        /// The job.
        job: JobInfo,
        /// The error, with its causes.
        error: String,
    },
    /// Deliveries of a queue were lost before their jobs began: the connection or channel that brought them was lost, or another
    /// program took them over. They were not run here; the broker delivers them again.
    Lost {
        /// The queue.
        queue: Name,
        /// The number of deliveries.
        count: u64,
    },
    /// This reader was too slow, and missed events before the next one.
    Missed {
        /// The number of events.
        count: u64,
    },
}

impl JobEvent {
    /// The job it is about; `None` for [`Lost`](Self::Lost) and [`Missed`](Self::Missed).
    pub fn job(&self) -> Option<&JobInfo> {
        match self {
            Self::Started { job }
            | Self::Succeeded { job, .. }
            | Self::Retried { job, .. }
            | Self::Snoozed { job, .. }
            | Self::Dead { job, .. }
            | Self::CallFailed { job, .. }
            | Self::Abandoned { job }
            | Self::Released { job }
            | Self::SettleFailed { job, .. } => Some(job),
            Self::Lost { .. } | Self::Missed { .. } => None,
        }
    }
}

/// The events of a worker, from the call of [`Worker::events`](crate::Worker::events) until the worker has stopped. A
/// `futures` stream.
///
/// ```
/// use leveret::{JobEvent, JobEvents};
///
/// async fn watch(mut events: JobEvents) {
///     while let Some(event) = events.next().await {
///         match event {
///             JobEvent::Retried { job, after, reason, .. } => println!("{} again in {after:?}: {reason}", job.id),
///             JobEvent::Missed { count } => println!("{count} events were missed"),
///             _ => {}
///         }
///     }
/// }
/// ```
///
/// Holds at most [`CAPACITY`](Self::CAPACITY) events; further events are dropped and counted, since a worker
/// never waits for its readers.
#[derive(Debug)]
pub struct JobEvents {
    events: mpsc::Receiver<JobEvent>,
    missed: Arc<AtomicU64>,
    /// Taken out of the channel, and returned after the [`JobEvent::Missed`] that precedes it.
    next: Option<JobEvent>,
}

impl JobEvents {
    /// The largest number of events that wait for their reader.
    pub const CAPACITY: usize = 4096;

    /// The next event; `None` when the worker has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<JobEvent> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        if let Some(event) = self.next.take() {
            return Poll::Ready(Some(event));
        }
        let event = ready!(self.events.poll_recv(cx));
        let count = self.missed.swap(0, Ordering::Relaxed);
        if count == 0 {
            return Poll::Ready(event);
        }
        self.next = event;
        Poll::Ready(Some(JobEvent::Missed { count }))
    }
}

impl Stream for JobEvents {
    type Item = JobEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        self.poll(cx)
    }
}

pub(crate) type Listener = Box<dyn Fn(&JobEvent) + Send + Sync>;

/// The worker's end of all [`JobEvents`].
#[derive(Default)]
pub(crate) struct Emitter {
    /// True once there is a listener or reader: without one, no event is built.
    is_heard: AtomicBool,
    /// Set once, when the worker starts.
    listeners: OnceLock<Vec<Listener>>,
    readers: RwLock<Vec<Reader>>,
}

struct Reader {
    events: mpsc::Sender<JobEvent>,
    missed: Arc<AtomicU64>,
}

impl Emitter {
    pub(crate) fn listen_all(&self, listeners: Vec<Listener>) {
        if !listeners.is_empty() {
            self.is_heard.store(true, Ordering::Relaxed);
            // A worker starts once.
            let _ = self.listeners.set(listeners);
        }
    }

    pub(crate) fn subscribe(&self) -> JobEvents {
        let (sender, events) = mpsc::channel(JobEvents::CAPACITY);
        let missed = Arc::<AtomicU64>::default();
        let reader = Reader { events: sender, missed: Arc::clone(&missed) };
        self.readers.write().unwrap_or_else(PoisonError::into_inner).push(reader);
        self.is_heard.store(true, Ordering::Relaxed);
        JobEvents { events, missed, next: None }
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> JobEvent) {
        if !self.is_heard.load(Ordering::Relaxed) {
            return;
        }
        let event = event();
        for listener in self.listeners.get().into_iter().flatten() {
            // A panic of a listener must not end the job. The panic hook has printed it.
            let _ = catch_unwind(AssertUnwindSafe(|| listener(&event)));
        }
        for reader in self.readers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(mpsc::error::TrySendError::Full(_)) = reader.events.try_send(event.clone()) {
                reader.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Ends all readers' streams.
    pub(crate) fn close(&self) {
        self.readers.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").finish_non_exhaustive()
    }
}

/// The counts of one run of a worker. Returned by [`Worker::run_until_idle`](crate::Worker::run_until_idle).
///
/// ```
/// # use leveret::{Client, Summary, Worker};
/// # async fn f(client: Client) -> leveret::Result<()> {
/// let summary: Summary = Worker::new(&client).run_until_idle().await?;
/// // 3 succeeded, 1 retried, 0 dead, 0 released
/// println!("{summary}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed and run again.
    pub retried: u64,
    /// Snoozes, which cost no attempt.
    pub snoozed: u64,
    /// Jobs that became dead letters.
    pub dead: u64,
    /// Calls that failed, and whose callers were told.
    pub calls_failed: u64,
    /// Calls that were not run, because their callers had given up.
    pub abandoned: u64,
    /// Jobs given back to their queue because the worker stopped, or all its slots were blocked.
    pub released: u64,
    /// Settlements that did not reach the broker, which delivers those jobs again.
    pub settle_failed: u64,
    /// Deliveries that were lost before their jobs began, which the broker delivers again.
    pub lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            succeeded,
            retried,
            snoozed,
            dead,
            calls_failed,
            abandoned,
            released,
            settle_failed,
            lost,
        } = self;
        write!(f, "{succeeded} succeeded, {retried} retried, {dead} dead, {released} released")?;
        if *snoozed > 0 {
            write!(f, ", {snoozed} snoozed")?;
        }
        if *calls_failed > 0 {
            write!(f, ", {calls_failed} calls failed")?;
        }
        if *abandoned > 0 {
            write!(f, ", {abandoned} abandoned by their callers")?;
        }
        if *settle_failed > 0 {
            write!(f, ", {settle_failed} could not be settled")?;
        }
        if *lost > 0 {
            write!(f, ", {lost} deliveries lost before they began")?;
        }
        Ok(())
    }
}

/// A [`Summary`] that many jobs add to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) snoozed: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) calls_failed: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) settle_failed: AtomicU64,
    pub(crate) lost: AtomicU64,
}

impl Tally {
    pub(crate) fn summary(&self) -> Summary {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            succeeded: read(&self.succeeded),
            retried: read(&self.retried),
            snoozed: read(&self.snoozed),
            dead: read(&self.dead),
            calls_failed: read(&self.calls_failed),
            abandoned: read(&self.abandoned),
            released: read(&self.released),
            settle_failed: read(&self.settle_failed),
            lost: read(&self.lost),
        }
    }
}
