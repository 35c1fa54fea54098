//! What generated code names. Not public API: it changes without notice.

pub use serde;

pub use crate::outcome::{IntoOutcome, Outcome, TaskError};
pub use crate::task::{Task, TaskOptions};
