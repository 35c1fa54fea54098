//! What the parts of the broker are known by: their numbers in the file.

pub(super) type QueueId = i64;
pub(super) type ClientId = i64;
pub(super) type ConsumerId = i64;
