//! A public task in a private module, with types that are not public.

use jobs::task;

/// Nobody outside sees it.
#[derive(Debug)]
struct PrivateError;

impl core::fmt::Display for PrivateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("private")
    }
}

impl core::error::Error for PrivateError {}

/// Nobody outside sees it either.
struct PrivateState;

/// Public by word, private by place.
#[task(crate = jobs, queue = "private", permanent(PrivateError {}))]
#[allow(unreachable_pub, private_interfaces, reason = "as people write it in a binary")]
pub async fn public_by_word(number: u32, _state: &PrivateState) -> Result<(), PrivateError> {
    core::future::ready(()).await;
    if number == 0 { Err(PrivateError) } else { Ok(()) }
}
