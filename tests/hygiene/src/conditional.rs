//! `cfg` on a task: where the function is not, nothing of it is.

use jobs::task;

/// Above the attribute the compiler takes it away first.
#[cfg(absent)]
#[task(crate = jobs, queue = "conditional")]
pub(crate) async fn absent_above(thing: Missing) {}

/// Below the attribute, each generated item must carry it.
#[task(crate = jobs, queue = "conditional", debug = false)]
#[cfg(absent)]
pub(crate) async fn absent_below(thing: Missing, state: &Missing) -> Missing {}

/// One of a pair of which only the other is there.
#[task(crate = jobs, queue = "conditional")]
#[cfg(not(absent))]
pub(crate) async fn absent_below(number: u32) {
    core::future::ready(()).await;
    assert!(number > 0);
}
