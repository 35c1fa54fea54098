//! Waiting with a deadline. It is generous: it only bounds how long a failure takes.

use std::panic::Location;
use std::time::Duration;

/// How long anything may take that must happen: a node that restarts on a machine that compiles meanwhile, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
#[track_caller]
pub(crate) fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    // Not an `async fn`: the panic then names the line that waited.
    let caller = Location::caller();
    async move {
        let waited = tokio::time::timeout(PATIENCE, future).await;
        waited.unwrap_or_else(|_| panic!("{caller}: {what} did not come within {PATIENCE:?}"))
    }
}

/// Asks until the answer is yes. For what nothing signals.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    soon(what, async move {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}
