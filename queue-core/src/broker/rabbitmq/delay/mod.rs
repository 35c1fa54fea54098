//! The ladder on which delayed jobs wait, and how long each has yet to wait.

pub(super) mod ladder;
pub(super) mod server_clock;
pub(super) mod waiting;
