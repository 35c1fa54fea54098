//! Returns an error for code that needs a tokio runtime, where tokio itself would panic. Used by code that waits for a while
//! or leaves a task behind; the rest may be awaited on any executor.

use tokio::runtime::Handle;

use crate::error::{Error, Result};

/// The runtime that the caller is on, which `what` needs.
///
/// # Errors
/// If there is none. The message names `what`.
pub(crate) fn require(what: &str) -> Result<Handle> {
    Handle::try_current().map_err(|error| {
        Error::config(format!("{what} needs a tokio runtime: await it within one")).with_source(error)
    })
}
