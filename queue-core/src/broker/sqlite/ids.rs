//! The numbers of queues, clients and messages in the file.

pub(super) type QueueId = i64;
pub(super) type ClientId = i64;
pub(super) type ConsumerId = i64;
