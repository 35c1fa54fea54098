//! The names of queues, exchanges and routing keys.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// The name of a queue, exchange or routing key; most are literals and cost no allocation.
pub type Name = Cow<'static, str>;

/// The longest name that AMQP carries, in bytes.
pub const MAX_NAME: usize = 255;

/// Checks a name that crosses the wire as an AMQP short string.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.len() > MAX_NAME {
        let start = crate::envelope::truncate(name, 40);
        let len = name.len();
        return Err(Error::config(format!(
            "{what} `{start}…` has {len} bytes; AMQP carries names of at most {MAX_NAME}: shorten it"
        )));
    }
    if name.is_empty() {
        return Err(Error::config(format!("the {what} has an empty name: give it one")));
    }
    if name.starts_with("amq.") {
        return Err(Error::config(format!(
            "{what} `{name}` begins with `amq.`, which AMQP reserves: rename it"
        )));
    }
    Ok(())
}
