//! Leveret's worker runtime. Programs use the facade crate [`leveret`](https://docs.rs/leveret), whose front page shows
//! what all this is for.
//!
//! A job's way through this crate: `fetch` → `execute` → `handler` → `settle`.

mod blocking;
mod context;
mod events;
mod execute;
mod fetch;
mod handler;
mod idle;
mod middleware;
#[doc(hidden)]
pub mod private;
mod registry;
mod reply;
mod settle;
mod shutdown;
mod stop;
#[cfg(feature = "testing")]
pub mod testing;
mod version;
mod worker;

pub use context::Context;
pub use events::{JobEvent, JobEvents, JobInfo, Summary};
pub use handler::Call;
pub use middleware::{HandlerFuture, HandlerService};
pub use registry::Runnable;
pub use shutdown::WorkerHandle;
pub use worker::Worker;
