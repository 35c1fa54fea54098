//! A framework that passes Leveret on under a name of its own.

/// What the framework shows.
pub(crate) mod framework {
    pub(crate) use jobs as queue;
}

/// Reached through the framework alone.
#[framework::queue::task(crate = crate::reexported::framework::queue, queue = "reexported")]
pub(crate) async fn reexported(number: u32, limit: &u32) {
    core::future::ready(()).await;
    assert!(number > *limit);
}
