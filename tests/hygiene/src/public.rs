//! Public tasks: what is generated is part of the crate's own documented interface.

use jobs::task;

/// Counts.
///
/// # Panics
/// At zero.
#[task(crate = jobs, queue = "public")]
pub async fn count(number: u32) {
    core::future::ready(()).await;
    assert!(number > 0);
}

/// Keeps a secret.
///
/// # Errors
/// If there is none.
#[task(crate = jobs, queue = "public", debug = false)]
pub async fn keep_secret(secret: String) -> Result<(), core::fmt::Error> {
    core::future::ready(()).await;
    if secret.is_empty() { Err(core::fmt::Error) } else { Ok(()) }
}
