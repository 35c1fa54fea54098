//! How worn a message is: how often its queue counts that it has come back. Asked by `consumer`, and by whoever looks
//! through a queue.

use crate::envelope::{Envelope, HeaderValue};

/// How often the server counts that a message has come back, towards the delivery limit of its queue. `None` where giving it
/// back in order costs nothing: RabbitMQ 4.3 counts that by `x-acquired-count` alone, and a classic queue not at all.
///
/// A message that is not `redelivered` has not come back: a count that it carries is its publisher's.
pub(crate) fn returns(redelivered: bool, envelope: &Envelope) -> Option<i64> {
    let count = |name: &str| envelope.headers.get(name).and_then(HeaderValue::as_int);
    if !redelivered || count("x-acquired-count").is_some() {
        return None;
    }
    count("x-delivery-count")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &[(&'static str, i64)]) -> Envelope {
        let mut envelope = Envelope::new("{}");
        for (name, count) in counts {
            envelope.headers.insert(*name, *count);
        }
        envelope
    }

    #[test]
    fn returns_are_those_that_the_server_counts_towards_the_limit() {
        let quorum = counted(&[("x-delivery-count", 4)]);
        let quorum_of_43 = counted(&[("x-delivery-count", 4), ("x-acquired-count", 9)]);

        assert_eq!(returns(true, &quorum), Some(4));
        assert_eq!(returns(false, &quorum), None, "it is forged");
        assert_eq!(returns(true, &quorum_of_43), None);
        assert_eq!(returns(true, &counted(&[])), None);
    }
}
