//! What generated code names. Not public API: it changes without notice.

pub use inventory;

pub use crate::handler::{BoxFuture, Call, Handler, Need, need};
pub use crate::registry::{Registration, Runnable};
