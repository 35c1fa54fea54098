//! A job queue that lives inside your program.
//!
//! Put [`#[task]`](macro@task) above a function, and it becomes a type of job: any program enqueues such jobs, and a worker runs
//! them, with retries, delays, priorities, timeouts and dead letters. One URL selects the broker: memory, SQLite or RabbitMQ. The
//! program stays the same.
//!
//! # A program
//!
//! ```no_run
#![doc = include_str!("../examples/email.rs")]
//! ```
//!
//! # Brokers
//!
//! | URL | broker | for | feature |
//! |---|---|---|---|
//! | `memory:` | in the process, keeps nothing; `memory:name` is shared within the process | unit tests, first steps | `memory`, on by default |
//! | `sqlite:jobs.db` | a file, durable, for all processes of one machine | production without a server | `sqlite` |
//! | `amqp://user:password@host/vhost` | RabbitMQ 3.10 and later; several hosts with commas | production on many machines | `rabbitmq` |
//! | `amqps://…` | RabbitMQ over TLS; `?cacertfile=…` trusts your own authority, `certfile` and `keyfile` log in | | `rabbitmq` |
//!
//! All brokers keep the same promises, and pass one suite of tests. On RabbitMQ the body of a message is the payload as plain
//! JSON, and its metadata are AMQP properties, so any AMQP client can enqueue for a worker and read its jobs.
//! AMQP URLs take pika's options: `heartbeat`, `blocked_connection_timeout`, `connection_attempts`, `retry_delay`,
//! `socket_timeout`.
//!
//! # The rules
//!
//! - **By value is the job's, by reference is the worker's.** Parameters taken by value become the fields of the job's payload,
//!   a struct named after the function: `send_email` gives `SendEmail`. Parameters taken by reference come from the worker: a
//!   [`&Context`](Context), or `&T` for a value that was passed to [`Worker::state`].
//! - **The function stays a function**: call it, test it. Without `async` it runs on the blocking pool.
//! - **Every error is retried**, after 1 s, 2 s, 4 s … unless [`#[task]`](macro@task) sets other waits. After the last retry the
//!   job is a dead letter. [`TaskError::permanent`] and [`.permanent()?`](ResultExt::permanent) skip the retries,
//!   [`TaskError::retry_in`] sets the wait, and [`TaskError::snooze`] puts a job off without counting an attempt.
//! - **Tasks are found because they are compiled in.** The linker drops a library of tasks that the binary never mentions: write
//!   `use my_tasks as _;`. A worker that names its tasks ([`Worker::task`]) runs only those.
//! - **`Ok` from [`enqueue`](Client::enqueue) means that the broker has the job**, confirmed and routed to its queue.
//! - **Every job runs at least once.** A crash at the wrong moment repeats a job and never loses one. So make handlers
//!   idempotent by [`Context::id`], which is the same for all attempts.
//! - **Mistakes stop the program at its start**, with a message: missing state, two tasks of one name, a queue that exists with
//!   other arguments. A bad message never stops a worker: it becomes a dead letter with the reason.
//!
//! # Where things are
//!
//! | to | see |
//! |---|---|
//! | describe a task and its queue | [`#[task]`](macro@task), with every option and its default |
//! | connect | [`Client::connect`], [`Client::from_env`], [`ClientBuilder`] |
//! | enqueue: one job or many, now or later | [`Client::enqueue`], [`Client::enqueue_all`], [`Job`] |
//! | enqueue in a transaction of your own | [`Job::into_sql`], [`Outbox`] |
//! | call a task and wait for its result | [`Client::call`] |
//! | publish events and subscribe to them | [`Event`](derive@Event), [`Client::publish`], [`#[subscriber]`](macro@subscriber) |
//! | run jobs, watch them, wrap them in layers | [`Worker`], [`Worker::events`], [`Worker::layer`] |
//! | count, show, replay and delete dead letters | [`Client::admin`] |
//! | test without a server | [`testing`] |
//! | describe tasks and events to other teams | [`asyncapi::document`] |
//!
//! # Logs and spans
//!
//! Leveret logs with `tracing`: about jobs under the target `leveret`, about brokers under `queue_core`. Each job runs in a span
//! `process` with OpenTelemetry's names for messaging: `messaging.system`, `messaging.destination.name`,
//! `messaging.operation.type`, `messaging.message.id` and others, and `leveret.task`, `leveret.queue`, `leveret.attempt`.
//!
//! Filter the log by `info,lapin=off`: lapin, the AMQP library, repeats what Leveret logs, and logs each returned message with
//! its payload.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `macros` | [`#[task]`](macro@task), [`#[subscriber]`](macro@subscriber), [`Event`](derive@Event) | yes |
//! | `worker` | [`Worker`]; leave it out of programs that only enqueue | yes |
//! | `memory` | the broker `memory:` | yes |
//! | `rabbitmq` | the brokers `amqp://` and `amqps://` | no |
//! | `management` | `bindings = "exact"` on RabbitMQ, by its management API ([`ClientBuilder::management`]) | no |
//! | `sqlite` | the broker `sqlite:` with SQLite built in, and [`Job::into_sql`] | no |
//! | `sqlite-system` | the same, linked to the system's SQLite | no |
//! | `schema` | [`asyncapi`]: a document of all tasks, events and queues, with JSON Schemas | no |
//! | `testing` | [`testing`]: unit tests of tasks, with a clock that the test moves | no |
#![cfg_attr(docsrs, feature(doc_cfg))]
// The front page links to items of all features.
#![cfg_attr(
    not(all(
        feature = "macros",
        feature = "worker",
        feature = "sqlite-system",
        feature = "schema",
        feature = "testing"
    )),
    allow(rustdoc::broken_intra_doc_links, reason = "a feature that is off takes its items out of the docs")
)]

#[cfg(feature = "macros")]
pub use queue_macros::{Event, subscriber, task};

pub use queue_core::admin::{Admin, DeadLetter};
pub use queue_core::broker::{BrokerInfo, Health, QueueStats};
pub use queue_core::call::{CallError, Request};
pub use queue_core::client::{Client, ClientBuilder, Enqueue, EnqueueAllError, EnqueueResults, Enqueued};
pub use queue_core::envelope::{HeaderValue, Headers, JobId};
pub use queue_core::error::{
    BoxError, EnqueueError, Error, ErrorKind, EventError, PublishError, Result, chain as error_chain,
};
pub use queue_core::event::{Event, RawMessage};
pub use queue_core::format::Format;
pub use queue_core::job::{IntoJob, Job};
#[cfg(feature = "sqlite-system")]
pub use queue_core::outbox::{CancellationToken, Outbox, SqlInsert};
pub use queue_core::outcome::{Failure, Outcome, ResultExt, TaskError, TaskResult, Verdict};
pub use queue_core::publish::{Properties, PublishEvent, PublishRaw};
pub use queue_core::retry::{Backoff, RetryPolicy};
pub use queue_core::settlement::{Reason, ReasonKind};
pub use queue_core::task::{Task, TaskOptions};
#[cfg(feature = "worker")]
pub use queue_worker::{
    Call, Context, HandlerFuture, HandlerService, JobEvent, JobEvents, JobInfo, Runnable, Summary, Worker,
    WorkerHandle,
};

/// Queues, exchanges and bindings, for a [`Task`] that is written by hand, and for the topology that a program declares beside
/// its tasks ([`Client::declare`]).
pub mod topology {
    pub use queue_core::topology::{
        BindingDecl, Declare, ExchangeDecl, ExchangeKind, Name, Namespace, Overflow, QueueDecl, QueueSpec,
        QueueType, Route, Topology,
    };
}

/// The types of [`Client::admin`] beside [`DeadLetter`]: pages of messages, workers and clients, and the error of a replay that
/// ended midway.
pub mod admin {
    pub use queue_core::admin::{Browsed, Interrupted, Message, MessageState, Page, PageToken};
    pub use queue_core::store::{Member, MemberKind, RunningJob};
}

/// The traits of a store, for a broker of your own making that has one ([`broker::Broker::store`]), and for tools
/// ([`Client::store`]).
pub mod store {
    pub use queue_core::store::{
        FORGOTTEN_AFTER, GONE_AFTER, HEARTBEAT, Heartbeat, PROTOCOL, Registry, Store,
    };
}

/// The traits of a broker, for one of your own making ([`ClientBuilder::with_broker`]), and for operations that a client does not
/// have ([`Client::broker`]).
pub mod broker {
    pub use queue_core::broker::{
        Abilities, Broker, ConsumeOptions, Consumer, ConsumerHandle, Delivery, Found, FoundDelayed, Mark,
        Operator, Place, Publish, Settings, Settler, Walk,
    };
    pub use queue_core::clock::Clock;
    pub use queue_core::envelope::Envelope;
    pub use queue_core::error::SettleError;
    pub use queue_core::settlement::Settlement;
}

#[cfg(feature = "testing")]
#[doc = include_str!("testing.md")]
pub mod testing {
    pub use queue_worker::testing::{JobOutcome, TestQueue};
}

#[cfg(feature = "schema")]
#[doc = include_str!("asyncapi.md")]
pub mod asyncapi {
    pub use queue_core::asyncapi::{document, document_in};
}

/// The examples in the docs of the macros, which their own crate cannot run.
#[cfg(doctest)]
mod macros {
    #[doc = include_str!("../queue-macros/src/task.md")]
    mod task {}

    #[doc = include_str!("../queue-macros/src/subscriber.md")]
    mod subscriber {}

    #[doc = include_str!("../queue-macros/src/event.md")]
    mod event {}
}

/// The items that generated code names. Not public API: they change without notice.
#[doc(hidden)]
pub mod __private {
    pub use queue_core::private::*;
    #[cfg(not(feature = "worker"))]
    pub use queue_core::private::{enqueue_only as register, no_worker as register_subscriber};
    #[cfg(feature = "worker")]
    pub use queue_worker::private::*;

    /// True if this program can run jobs.
    pub const HAS_WORKER: bool = cfg!(feature = "worker");
}
