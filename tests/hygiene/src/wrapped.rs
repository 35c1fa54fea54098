//! Tasks that a macro writes: what it passes on arrives in invisible groups.

/// Writes a task.
macro_rules! wrapped {
    ($name:ident, $queue:expr, $retries:literal, $parameter:ident: $ty:ty, $state:ident: $reference:ty) => {
        /// Written by a macro.
        #[jobs::task(crate = jobs, queue = $queue, retries = $retries)]
        pub(crate) async fn $name($parameter: $ty, $state: $reference) {
            core::future::ready(()).await;
            assert!($parameter > 0 || *$state > 0);
        }
    };
}

wrapped!(wrapped, "wrapped", 3, number: u32, limit: &u32);
