//! Leveret's worker runtime. Programs use the facade crate `leveret`, which re-exports all of this.
//!
//! A job's way through this crate: `fetch` → `execute` → `handler` → `settle`.

mod context;
mod handler;
#[doc(hidden)]
pub mod private;
mod registry;

pub use context::Context;
pub use handler::Call;
pub use registry::Runnable;
