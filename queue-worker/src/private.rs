//! The items that generated code names. Not public API: they change without notice.

pub use inventory;

pub use crate::handler::{BoxFuture, Call, Handler, run_blocking};
pub use crate::registry::{Registration, Runnable};
pub use crate::state::{Need, need};
pub use crate::{__register as register, __register_subscriber as register_subscriber};

/// A task in a program that has a worker: its code follows the arrow.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($(#[$attribute:meta])* $($function:path),+; $payload:ty => $($handler:tt)*) => {
        $(#[$attribute])*
        $($handler)*
    };
}

/// A subscriber in a program that has a worker.
#[doc(hidden)]
#[macro_export]
macro_rules! __register_subscriber {
    ($($handler:tt)*) => {
        $($handler)*
    };
}
