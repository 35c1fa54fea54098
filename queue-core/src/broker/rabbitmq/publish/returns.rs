//! The returned messages of a channel. Owned by `wire`.
//!
//! lapin hands a returned message out with any confirm, or without confirms to the next caller. So it is known by what it
//! carries: its message id, or where another message of that id is on its way too (a replay, or an id that its sender
//! chose), the header `q-publish`. A header on every message would be read and kept by the server for the sake of those
//! few.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use lapin::BasicProperties;

use super::outgoing::Outgoing;
use crate::broker::rabbitmq::message::convert;
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
        if envelope.headers.get(header::PUBLISH).is_some() {
            return Some(outgoing.id);
        }
        match self.unmarked.entry(envelope.id.clone()) {
            Entry::Occupied(_) => Some(outgoing.id),
            Entry::Vacant(unmarked) => {
                unmarked.insert(outgoing.id);
                None
            }
        }
    }

    /// A message has come back, that of an earlier or a later publish than it was handed out with.
    pub(super) fn note(&mut self, message: &BasicProperties) {
        let unmarked = || {
            let id = message.message_id().as_ref()?;
            self.unmarked.get(&JobId::from(id.as_str())).copied()
        };
        self.returned.extend(convert::mark(message).or_else(unmarked));
    }

    /// True if a message has come back so far.
    pub(super) fn has(&self, outgoing: &Outgoing) -> bool {
        self.returned.contains(&outgoing.id)
    }

    /// True if a message has come back. It is on its way no more.
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::outgoing::One;
    use super::*;
    use crate::broker::Publish;
    use crate::envelope::Envelope;

    fn outgoing(number: i64, id: &str, change: impl FnOnce(&mut Publish)) -> Outgoing {
        let mut envelope = Envelope::new("{}");
        envelope.id = id.into();
        let mut publish = Publish::to_queue("emails", envelope);
        change(&mut publish);
        let one = One { publish: Box::new(publish), reply: oneshot::channel().0, wants_confirm: true };
        Outgoing::one(one, number)
    }

    /// The properties with which the server returns a message.
    fn returned(outgoing: &Outgoing, mark: Option<i64>) -> BasicProperties {
        convert::properties(&outgoing.publish().envelope, mark)
    }

    #[test]
    fn message_is_known_by_its_id_and_by_a_mark_where_that_would_not_do() {
        let mut returns = Returns::default();
        let sent = [(7, "a"), (8, "b"), (9, "a")].map(|(number, id)| outgoing(number, id, |_| {}));

        let marks = [0, 1, 2].map(|at| returns.expect(&sent[at]));
        returns.note(&returned(&sent[2], marks[2]));

        assert_eq!(marks, [None, None, Some(9)]);
        assert_eq!([0, 1, 2].map(|at| returns.take(&sent[at])), [false, false, true]);
        // And the other way round, whichever of the two is still on its way.
        assert_eq!(returns.expect(&sent[2]), None);
        assert_eq!(returns.expect(&sent[0]), Some(7));
        assert!(!returns.take(&sent[2]));
        let third = outgoing(10, "a", |_| {});
        assert_eq!(returns.expect(&third), None);
        returns.note(&returned(&third, None));
        assert_eq!([&sent[0], &third].map(|one| returns.take(one)), [false, true]);
        assert!(returns.unmarked.is_empty() && returns.returned.is_empty());
    }

    #[test]
    fn mark_that_is_not_ours_is_replaced() {
        let mut returns = Returns::default();
        let one = outgoing(7, "a", |publish| publish.envelope.headers.insert(header::PUBLISH, 8_i64));
        let other = outgoing(8, "b", |_| {});

        let mark = returns.expect(&one);
        returns.expect(&other);
        returns.note(&returned(&one, mark));

        assert_eq!(mark, Some(7));
        assert_eq!([&one, &other].map(|outgoing| returns.take(outgoing)), [true, false]);
    }

    #[test]
    fn message_that_cannot_come_back_is_not_waited_for() {
        let mut returns = Returns::default();
        let event = outgoing(7, "a", |publish| publish.mandatory = false);

        assert_eq!(returns.expect(&event), None);
        assert!(returns.unmarked.is_empty());
        assert!(!returns.take(&event));
    }
}
