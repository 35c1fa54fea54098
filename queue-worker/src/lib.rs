//! Leveret's worker runtime. Programs use the facade crate [`leveret`](https://docs.rs/leveret), and its documentation is the
//! place to start.
//!
//! A job's way through this crate: `fetch` → `process` → `errand` → `execute` → `handler` → `decide` → `settle`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod activity;
mod blocking;
mod consumer_timeout;
mod context;
mod decide;
mod errand;
mod events;
mod execute;
mod fetch;
mod handler;
mod idle;
mod lane;
mod middleware;
#[doc(hidden)]
pub mod private;
mod process;
mod registry;
mod repeat;
mod report;
mod run;
mod settle;
mod signals;
mod slots;
mod span;
mod state;
mod steps;
mod stop;
mod suspect;
#[cfg(feature = "testing")]
pub mod testing;
mod version;
mod worker;

pub use context::Context;
pub use events::{JobEvent, JobEvents, JobInfo, Summary};
pub use handler::Call;
pub use middleware::{HandlerFuture, HandlerService};
pub use registry::Runnable;
pub use steps::WorkerHandle;
pub use worker::Worker;
