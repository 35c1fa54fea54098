//! Jobs whose holders were lost again and again: one of them may end every process that runs it. It runs alone, so that it takes
//! no other job along, and is a dead letter when it has ended as many processes alone as it may.
//!
//! A count of lost holders is a reason to look closer, never a verdict: a lost connection counts as a process that ended does, and
//! all that the process held are counted alike. Only a run that was marked as begun counts against its job, when the process of
//! the mark is known to have ended. [`record`] reads the counts and marks of a delivery; [`inspect`] decides and acts; [`turn`]
//! stops the others; [`apart`] takes the jobs that wait in a queue of their own.
//!
//! The files import one another in one direction: `turn`, `record` and `queue`, then `inspect`, then `apart`.

pub(crate) mod apart;
pub(crate) mod inspect;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod turn;
