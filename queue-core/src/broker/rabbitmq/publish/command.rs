//! Commands of callers to the publisher's task, and the receipt of a caller that has sent its message itself.

use tokio::sync::oneshot;

use super::outgoing::{One, Outcome};
use crate::broker::{ConsumerHandle, Publish};
use crate::error::Result;

/// The commands of callers to the publisher's task.
pub(super) enum Command {
    One(One),
    Many(Vec<Publish>, oneshot::Sender<Vec<Outcome>>),
    ReadReplies(ConsumerHandle, oneshot::Sender<Result<()>>),
    /// To look after everything: a caller has ended that had sent its message itself, or does not watch its deadline.
    Look,
}

/// A message that its caller has sent.
pub(super) struct Sent {
    /// Its [`Outgoing::id`](super::outgoing::Outgoing::id), if its caller also looks after it.
    pub(super) own: Option<i64>,
    /// True if the task wakes by itself when time is up.
    pub(super) is_timed: bool,
}
