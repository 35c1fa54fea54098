//! The numbers of queues, clients and messages of a memory broker.

/// Names a client of a broker.
pub(super) type ClientId = u64;
/// Names a consumer.
pub(super) type ConsumerId = u64;
/// Names a queue for ever: one that is deleted and declared again has another.
pub(super) type QueueId = u64;
