//! Which tasks a worker can run: those compiled into the binary, or those it names.

use queue_core::task::{Task, TaskOptions};
use queue_core::topology::QueueSpec;

use crate::handler::{Handler, Need};

/// A task whose code is at hand. `#[task]` writes the impl.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler in this program",
    note = "`#[task]` above a function makes one; a hand-written `Task` can only be enqueued"
)]
pub trait Runnable: Task {
    /// Everything the worker needs to run it.
    #[doc(hidden)]
    fn registration() -> Registration;
}

/// Everything the worker needs to run a task.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// The task's name on the wire.
    pub name: &'static str,
    /// The function's path, to tell two tasks of one name apart in an error.
    pub path: &'static str,
    /// Its queue.
    pub queue: fn() -> &'static QueueSpec,
    /// How its jobs are run.
    pub options: fn() -> &'static TaskOptions,
    /// Its code.
    pub run: Handler,
    /// What its by-reference parameters need.
    pub needs: fn() -> Vec<Need>,
}

inventory::collect!(Registration);

/// All tasks compiled into this program.
pub(crate) fn compiled_in() -> impl Iterator<Item = &'static Registration> {
    inventory::iter::<Registration>.into_iter()
}
