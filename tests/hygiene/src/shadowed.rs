//! A module in which the usual names mean something else, or nothing.
#![no_implicit_prelude]

/// Types and traits of a crate that names things its own way.
#[allow(
    dead_code,
    clippy::missing_docs_in_private_items,
    reason = "they stand in the way, which is the test"
)]
pub(crate) mod usual {
    pub(crate) struct Result;
    pub(crate) struct Option;
    pub(crate) struct String;
    pub(crate) struct Vec;
    pub(crate) struct Box;
    pub(crate) struct Duration;
    pub(crate) struct Outcome;
    pub(crate) struct Some;
    pub(crate) struct None;
    pub(crate) struct Ok;
    pub(crate) struct Err;
    pub(crate) trait Send {}
    pub(crate) trait Sync {}
    pub(crate) trait Clone {}
    pub(crate) trait Default {}
    pub(crate) mod std {}
    pub(crate) mod core {}
    pub(crate) mod serde {}
}

#[allow(unused_imports, clippy::wildcard_imports, reason = "they stand in the way, which is the test")]
use usual::*;

/// Hides a macro that generated code might want.
#[allow(unused_macros, reason = "it stands in the way, which is the test")]
macro_rules! vec {
    () => {
        compile_error!("the task uses the module's own macro")
    };
}

/// An error of this crate.
#[derive(Debug)]
pub(crate) struct Failure;

impl ::core::fmt::Display for Failure {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.write_str("failure")
    }
}

impl ::core::error::Error for Failure {}

/// Every option at once.
#[::jobs::task(
    crate = ::jobs,
    queue = "shadowed",
    name = "everything",
    aliases = ["something", "anything"],
    payload = Everything,
    dlx = "dlx",
    dead_letter_queue = "dead.letters",
    dead_letter_key = "failed",
    dead_letter_ttl = "7d",
    queue_type = "classic",
    declare = "active",
    ttl = "1h30m",
    max_length = 100_000,
    overflow = "dead-letter",
    max_priority = 10,
    concurrency = 4,
    prefetch = 8,
    crash_limit = 3,
    retries = 3,
    backoff = exponential("20ms", max = "1h"),
    timeout = none,
    priority = 5,
    permanent(Failure {}),
    default,
    reply = false,
    format = "cbor",
    version = 2,
    upcast = upcast_everything,
    debug = false
)]
pub(crate) async fn with_every_option(
    limit: &u32,
    state: &::std::sync::Arc<::std::string::String>,
    number: u32,
) -> ::core::result::Result<u32, Failure> {
    ::core::future::ready(()).await;
    if number > *limit || !state.is_empty() {
        return ::core::result::Result::Err(Failure);
    }
    ::core::result::Result::Ok(number)
}

/// Reads version 1.
fn upcast_everything(
    from: u32,
    payload: ::jobs::__private::serde_json::Value,
) -> ::core::result::Result<::jobs::__private::serde_json::Value, Failure> {
    if from == 1 { ::core::result::Result::Ok(payload) } else { ::core::result::Result::Err(Failure) }
}

/// Without `async`, parameters or return type.
#[::jobs::task(crate = ::jobs, queue = "shadowed.blocking")]
pub(crate) const fn nothing_at_all() {}
