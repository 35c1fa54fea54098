//! Topology on the server: declares it on a channel, remembers it, and declares it again.

pub(super) mod declare;
pub(super) mod declared;
pub(super) mod redeclare;
pub(super) mod suspects;
