//! One connection: what its URL says, how it is opened, and what its errors mean.

pub(super) mod channel;
pub(super) mod closing;
pub(super) mod connect;
pub(super) mod dial;
pub(super) mod fault;
pub(super) mod hosts;
pub(super) mod runtime;
pub(super) mod transport;
pub(super) mod url;
