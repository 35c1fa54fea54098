//! How worn a message is: how often its queue counts that it has come back. Asked by `consumer`, and by whoever looks
//! through a queue.

use crate::broker::Returns;
use crate::envelope::{Envelope, HeaderValue, header};

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

/// Counts the holders that were lost with a message. A quorum queue before 4.3 also counts normal returns. From 4.3 on
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

/// True if a message must be published anew when it is given back: its queue would count the return, and after that the
/// message looks as if `crash_limit` of its holders had been lost, see [`holders`]. Before 4.3 the first return cannot be avoided,
/// so with a limit of 1 it is the second one.
///
/// A policy may set a delivery limit that is as low as the crash limit, of which AMQP tells nothing.
pub(crate) fn is_worn(redelivered: bool, envelope: &Envelope, crash_limit: u32) -> bool {
    let limit = i64::from(crash_limit);
    // A classic queue counts nothing, and a return looks to the next holder like a holder that was lost.
    let noted = envelope.headers.get(header::CRASHES).and_then(HeaderValue::as_int);
    if noted.is_some_and(|noted| noted >= (limit - 1).max(1)) {
        return true;
    }
    let acquired = envelope.headers.get("x-acquired-count").and_then(HeaderValue::as_int);
    match (returns(redelivered, envelope), acquired) {
        (Some(returns), _) => returns >= (limit - 1).max(1),
        (None, Some(acquired)) => redelivered && acquired >= 2 * limit - 1,
        (None, None) => false,
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

    /// The last return that is left to the server is the one after which it counts one less than the limit.
    #[test]
    fn worn_message_is_one_that_would_reach_the_crash_limit() {
        let is_worn = |counts: &[(&'static str, i64)], limit| is_worn(true, &counted(counts), limit);

        for (limit, returns, acquired) in [(1, 1, 1), (2, 1, 3), (3, 2, 5), (100, 99, 199)] {
            for count in 0..=limit.into() {
                assert_eq!(
                    is_worn(&[("x-delivery-count", count)], limit),
                    count >= returns,
                    "{count}, {limit}"
                );
            }
            for count in 0..=2 * i64::from(limit) {
                let counts = [("x-delivery-count", 0), ("x-acquired-count", count)];
                assert_eq!(is_worn(&counts, limit), count >= acquired, "{count}, {limit}");
            }
        }
        assert!(!is_worn(&[], 1), "a classic queue counts nothing");
        let forged = counted(&[("x-delivery-count", 9), ("x-acquired-count", 9)]);
        assert!(!super::is_worn(false, &forged, 3), "it has not come back");
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
