//! A deprecated task warns whoever enqueues it, and not the crate that has it.

use jobs::task;

/// An old way to do it.
#[task(crate = jobs, queue = "deprecated", debug = false)]
#[deprecated = "use the new one"]
pub(crate) async fn old(number: u32) {
    core::future::ready(()).await;
    assert!(number > 0);
}

/// The same, shown in full.
#[deprecated(note = "use the new one")]
#[task(crate = jobs, queue = "deprecated")]
pub(crate) fn older(number: u32) {
    assert!(number > 0);
}

/// A type on its way out.
#[deprecated(note = "use another")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Legacy(String);

/// Allows for itself what it knows.
#[task(crate = jobs, queue = "deprecated")]
#[allow(deprecated, reason = "the state has not moved yet")]
pub(crate) fn knows(number: u32, state: &Legacy) {
    assert_eq!(*state, Legacy(String::new()));
    assert!(number > 0);
}
