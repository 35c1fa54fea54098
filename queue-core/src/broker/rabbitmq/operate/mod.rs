//! Looks into queues for an operator, on connections beside those that jobs go by.

pub(super) mod channels;
pub(super) mod control;
pub(super) mod process;
pub(super) mod turn;
pub(super) mod walk;
