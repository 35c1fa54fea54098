//! The `memory:` broker: in process, nothing kept.

use std::sync::Arc;

use super::{Broker, Settings};
use crate::error::{Error, Result};

/// Opens `memory:`, a broker of its own, or `memory:name`, shared in the process.
pub(crate) fn open(url: &str, _settings: &Settings) -> Result<Arc<dyn Broker>> {
    Err(Error::config(format!("`{url}` cannot be opened yet")))
}
