//! A job queue that lives inside your program.
//!
//! Put [`#[task]`](macro@task) above a function and it becomes a job type: enqueue it anywhere, work it anywhere. The
//! same program runs with no server at all, and on RabbitMQ by changing one URL.
//!
//! ```no_run
#![doc = include_str!("../examples/email.rs")]
//! ```
//!
//! # The rules
//!
//! - **By value is the job's, by reference is the worker's.** Parameters taken by value become the fields of the payload,
//!   a struct named after the function (`send_email` gives `SendEmail`), and plain JSON on the wire. Parameters taken by
//!   reference are given by the worker: a [`&Context`](Context), or `&T` for a value that [`Worker::state`] was given.
//! - **The function stays a function**: call it, test it. Without `async` it runs on the blocking pool.
//! - **Any error is tried again**, after 1 s, 2 s, 4 s … unless [`#[task]`](macro@task) says otherwise; then the job is a
//!   dead letter. [`TaskError::permanent`] and [`.permanent()?`](ResultExt::permanent) say that no retry will mend it,
//!   [`TaskError::retry_in`] says when to try again.
//! - **Tasks are found by being compiled in.** A library of tasks that the binary never mentions is not linked: write
//!   `use my_tasks as _;`. A worker that names its tasks ([`Worker::task`]) runs those only.
//! - **`Ok` from [`enqueue`](Client::enqueue) means that the broker has the job**, confirmed and routed to its queue.
//! - **Every job runs at least once.** A crash at the wrong moment repeats a job, and never loses it: make handlers
//!   idempotent, by [`Context::id`], which is the same through all attempts.
//! - **Mistakes end the program at its start**, in words: missing state, two tasks of one name, a queue that exists with
//!   other arguments. A bad message never does: it is a dead letter with the reason.
//!
//! # Where things are
//!
//! | to | see |
//! |---|---|
//! | describe a task and its queue | [`#[task]`](macro@task), every option with its default |
//! | enqueue, one job or many, later or with a priority | [`Client::enqueue`], [`Client::enqueue_all`], [`Job`] |
//! | enqueue and wait for what the task returns | [`Client::call`] |
//! | publish events and subscribe to them | [`Event`](derive@Event), [`Client::publish`], [`#[subscriber]`](macro@subscriber) |
//! | run jobs | [`Worker`]; what is told of each: [`Worker::events`]; what stands around each: [`Worker::layer`] |
//! | look into queues, replay dead letters | [`Client::admin`] |
//! | describe all of it to others | [`asyncapi::document`], with the feature `schema` |
//! | test without a server | [`testing`], with the feature of that name |
//! | connect | [`Client::connect`], [`Client::from_env`], [`ClientBuilder`] |
//!
//! # One URL, one contract
//!
//! | URL | what | for |
//! |---|---|---|
//! | `memory:` | in process, nothing kept; `memory:name` is shared in the process | unit tests, first steps |
//! | `sqlite:jobs.db` | embedded and durable, several processes of one machine | production without a server |
//! | `amqp://user:password@host/vhost` | RabbitMQ 3.10 and later; several hosts by commas | production on many machines |
//! | `amqps://…` | the same by TLS; `?cacertfile=…` trusts an authority of your own, `certfile` and `keyfile` log in | |
//!
//! On RabbitMQ the body is the payload as JSON and metadata are AMQP properties, so any AMQP client can enqueue for a
//! worker, and read what was enqueued. AMQP URLs take pika's options (`heartbeat`, `blocked_connection_timeout`,
//! `connection_attempts`, `retry_delay`, `socket_timeout`).
//!
//! # Logs and spans
//!
//! Leveret logs by `tracing`: of jobs under the target `leveret`, of brokers under `queue_core`. Each job runs in a span
//! `process` with OpenTelemetry's names for messaging: `messaging.system`, `messaging.destination.name`,
//! `messaging.operation.type`, `messaging.message.id` and so on, and `leveret.task`, `leveret.queue`, `leveret.attempt`.
//!
//! lapin, which speaks AMQP, says in words of its own what Leveret says anyway, and logs each returned message with its
//! payload: a filter of `info,lapin=off` reads best.
//!
//! # Features
//!
//! | feature | brings | default |
//! |---|---|---|
//! | `macros` | [`#[task]`](macro@task) and its like | yes |
//! | `worker` | [`Worker`]; a program that only enqueues does without | yes |
//! | `memory` | `memory:` | yes |
//! | `rabbitmq` | `amqp://` and `amqps://` | no |
//! | `management` | `bindings = "exact"` on RabbitMQ, by its management API ([`ClientBuilder::management`]) | no |
//! | `sqlite` | `sqlite:` with SQLite built in, and [`Job::into_sql`]: enqueue in a transaction of your own | no |
//! | `sqlite-system` | the same with the system's SQLite | no |
//! | `schema` | [`asyncapi`]: a document of all tasks, events and queues, with JSON Schemas | no |
//! | `testing` | [`testing`]: unit tests of tasks, with a clock that the test moves | no |

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

/// Queues, exchanges and bindings: those of a [`Task`] written by hand, and those that a program declares beside its
/// tasks ([`Client::declare`]).
pub mod topology {
    pub use queue_core::topology::{
        BindingDecl, Declare, ExchangeDecl, ExchangeKind, Name, Namespace, Overflow, QueueDecl, QueueSpec,
        QueueType, Route, Topology,
    };
}

/// What [`Client::admin`] takes and returns beside dead letters: pages of messages, workers and clients, and the error of a replay
/// that ended midway.
pub mod admin {
    pub use queue_core::admin::{Browsed, Interrupted, Message, MessageState, Page, PageToken};
    pub use queue_core::store::{Member, MemberKind, RunningJob};
}

/// What a store must do, for a broker of your own making that has one ([`broker::Broker::store`]), and for tools
/// ([`Client::store`]).
pub mod store {
    pub use queue_core::store::{
        FORGOTTEN_AFTER, GONE_AFTER, HEARTBEAT, Heartbeat, PROTOCOL, Registry, Store,
    };
}

/// What a broker must do, for one of your own making ([`ClientBuilder::with_broker`]), and for what a client does not do
/// ([`Client::broker`]).
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

/// The examples in the docs of `#[task]`, which its own crate cannot run.
#[cfg(doctest)]
#[doc = include_str!("../queue-macros/src/task.md")]
mod task_docs {}

/// What generated code names. Not public API: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use queue_core::private::*;
    #[cfg(not(feature = "worker"))]
    pub use queue_core::private::{enqueue_only as register, no_worker as register_subscriber};
    #[cfg(feature = "worker")]
    pub use queue_worker::private::*;

    /// Whether this program could run what it enqueues.
    pub const HAS_WORKER: bool = cfg!(feature = "worker");
}
