//! The version of the payload in a message. Read by `errand`, which checks that this worker knows it, and by `handler`, which
//! upcasts older ones.

use queue_core::envelope::{HeaderValue, Headers, header};

/// The version in the header; 1 where there is none.
///
/// # Errors
/// If it is no version, in words that follow "the payload of task `x`: ".
pub(crate) fn of(headers: &Headers) -> Result<u32, String> {
    let Some(value) = headers.get(header::VERSION) else { return Ok(1) };
    let version = value.as_int().and_then(|version| u32::try_from(version).ok());
    version.filter(|version| *version > 0).ok_or_else(|| {
        let found = match value {
            HeaderValue::Int(number) => number.to_string(),
            HeaderValue::String(text) => text.clone(),
            other => format!("{other:?}"),
        };
        let name = header::VERSION;
        format!("its header `{name}` is `{found}`; send a whole number from 1, or leave it out for 1")
    })
}
