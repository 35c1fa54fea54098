//! Which of the messages sent on a channel have come back. Owned by `wire`.
//!
//! lapin hands a returned message out with any confirm, so it is known by what it carries: its message id, or where
//! another message of that id is on its way too (a replay, or an id that its sender chose), the header `q-publish`. A
//! header on every message would be read and kept by the server for the sake of those few.

use std::collections::{HashMap, HashSet};

use lapin::BasicProperties;

use super::convert;
use super::outgoing::Outgoing;
use crate::envelope::{JobId, header};

/// Knows the publishes of one channel that may come back, and those that have.
#[derive(Default)]
pub(super) struct Returns {
    /// The publishes on their way that go without a mark, by message id.
    unmarked: HashMap<JobId, i64>,
    returned: HashSet<i64>,
}

impl Returns {
    /// Takes note of a message that is about to be sent. Gives its mark, if it must carry one.
    pub(super) fn expect(&mut self, outgoing: &Outgoing) -> Option<i64> {
        let publish = outgoing.publish();
        if !publish.mandatory {
            return None;
        }
        let envelope = &publish.envelope;
        // A header of that name that is not ours would be taken for our mark.
        if self.unmarked.contains_key(&envelope.id) || envelope.headers.get(header::PUBLISH).is_some() {
            return Some(outgoing.id);
        }
        self.unmarked.insert(envelope.id.clone(), outgoing.id);
        None
    }

    /// A message has come back, that of an earlier or a later publish than it was handed out with.
    pub(super) fn note(&mut self, message: &BasicProperties) {
        let unmarked = || {
            let id = message.message_id().as_ref()?;
            self.unmarked.get(&JobId::from(id.as_str())).copied()
        };
        self.returned.extend(convert::mark(message).or_else(unmarked));
    }

    /// Whether a message has come back. It is on its way no more.
    pub(super) fn take(&mut self, outgoing: &Outgoing) -> bool {
        let publish = outgoing.publish();
        if !publish.mandatory {
            return false;
        }
        if self.unmarked.get(&publish.envelope.id) == Some(&outgoing.id) {
            self.unmarked.remove(&publish.envelope.id);
        }
        self.returned.remove(&outgoing.id)
    }
}
