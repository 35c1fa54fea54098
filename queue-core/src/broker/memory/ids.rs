//! What the parts of a memory broker are known by.

/// Names a client of a broker.
pub(super) type ClientId = u64;
/// Names a consumer.
pub(super) type ConsumerId = u64;
/// Names a queue for ever: one that is deleted and declared again has another.
pub(super) type QueueId = u64;
