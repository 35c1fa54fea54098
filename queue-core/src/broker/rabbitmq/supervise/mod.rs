//! Keeps connections: each a session after the other, watched by those that publish and consume.

pub(super) mod connections;
pub(super) mod pause;
pub(super) mod probe;
pub(super) mod session;
pub(super) mod supervision;
