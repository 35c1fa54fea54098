//! The due router runs while somebody needs it.

use std::sync::{Arc, PoisonError};

use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::due;

/// Keeps the due router running while it lives.
pub(super) struct NeedsRouter(Arc<Core>);

impl NeedsRouter {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        let mut router = core.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.0 += 1;
        if router.1.is_none() {
            let stop = CancellationToken::new();
            router.1 = Some(stop.clone());
            core.spawn(due::route(core.clone(), stop));
        }
        drop(router);
        Self(core.clone())
    }
}

impl Drop for NeedsRouter {
    fn drop(&mut self) {
        let mut router = self.0.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.0 -= 1;
        if router.0 == 0
            && let Some(stop) = router.1.take()
        {
            stop.cancel();
        }
    }
}
