//! How worn a message is: how often its queue counts that it has come back. Asked by `consumer`, and by whoever looks
//! through a queue.

use crate::broker::Returns;
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

/// Says how many holders were lost with a message. A quorum queue before 4.3 counts also what was given back in order. From 4.3 on
/// a delivery that was held for too long shows in `x-acquired-count` alone, and so does one that was given back: two of those are
/// reckoned as one holder that was lost, since nothing else shows that a job runs into the limit again and again.
pub(crate) fn holders(redelivered: bool, envelope: &Envelope) -> Returns {
    let count = |name: &str| {
        let count = envelope.headers.get(name).and_then(HeaderValue::as_int)?;
        Some(u64::try_from(count).unwrap_or(0))
    };
    if !redelivered {
        return Returns::Never;
    }
    match (count("x-delivery-count"), count("x-acquired-count")) {
        (None, None) => Returns::Uncounted,
        (counted, acquired) => Returns::Counted(counted.unwrap_or(0).max(acquired.unwrap_or(0) / 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_that_were_lost_are_those_that_the_queue_counts() {
        let counted = |counts: &[(&'static str, i64)]| holders(true, &counted(counts));

        assert_eq!(
            holders(false, &self::counted(&[("x-delivery-count", 9)])),
            Returns::Never,
            "it is forged"
        );
        assert_eq!(counted(&[]), Returns::Uncounted);
        assert_eq!(counted(&[("x-delivery-count", 3)]), Returns::Counted(3));
        assert_eq!(counted(&[("x-delivery-count", -3)]), Returns::Counted(0));
        assert_eq!(counted(&[("x-acquired-count", 1)]), Returns::Counted(0), "it was given back");
        assert_eq!(counted(&[("x-acquired-count", 6)]), Returns::Counted(3));
        assert_eq!(counted(&[("x-delivery-count", 2), ("x-acquired-count", 2)]), Returns::Counted(2));
    }

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
