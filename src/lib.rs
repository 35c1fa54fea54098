//! Leveret: a job queue that lives inside your program.

#[cfg(feature = "macros")]
pub use queue_macros::{Event, subscriber, task};

pub use queue_core::call::{CallError, Request};
pub use queue_core::client::{Client, ClientBuilder, Enqueue};
pub use queue_core::envelope::JobId;
pub use queue_core::error::{
    BoxError, EnqueueError, Error, ErrorKind, EventError, PublishError, Result, chain as error_chain,
};
pub use queue_core::event::{Event, RawMessage};
pub use queue_core::format::Format;
pub use queue_core::outcome::{Outcome, ResultExt, TaskError, TaskResult};
pub use queue_core::publish::{Properties, PublishEvent, PublishRaw};
pub use queue_core::settlement::ReasonKind;
pub use queue_core::task::Task;
#[cfg(feature = "worker")]
pub use queue_worker::{
    Call, Context, HandlerFuture, HandlerService, JobEvent, JobEvents, JobInfo, Runnable, Summary, Worker,
    WorkerHandle,
};

#[cfg(feature = "testing")]
#[doc = include_str!("testing.md")]
pub mod testing {
    pub use queue_worker::testing::TestQueue;
}

/// What generated code names. Not public API: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use queue_core::private::*;
    #[cfg(not(feature = "worker"))]
    pub use queue_core::private::{enqueue_only as register, no_worker as register_subscriber};
    #[cfg(feature = "worker")]
    pub use queue_worker::private::*;
}
