//! The headers that a broker writes on a message that dies in a queue, as RabbitMQ 3.10 does, and how it sees that a message
//! goes in circles. See <https://www.rabbitmq.com/docs/dlx#effects>.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::envelope::{Envelope, HeaderValue, Headers};

/// The reason why a message died in its queue, without any worker's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeathReason {
    /// It waited longer than its time to live.
    Expired,
    /// It made room in a queue at its limit.
    MaxLength,
    /// It came back to the queue more often than the queue allows.
    DeliveryLimit,
}

impl DeathReason {
    /// The word in `x-death`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// Writes a death on the message: into `x-death`, newest first and counted by queue and reason, and as
/// `x-first-death-*` if it is the first. The message loses its expiration, or it would expire again where it goes.
pub(crate) fn die(
    message: &mut Envelope,
    queue: &str,
    reason: DeathReason,
    exchange: &str,
    routing_key: &str,
    now: SystemTime,
) {
    let mut deaths = match message.headers.remove("x-death") {
        Some(HeaderValue::List(deaths)) => deaths,
        // A foreign producer may have written anything; what is no list is not ours to keep.
        _ => Vec::new(),
    };
    let same = |death: &HeaderValue| {
        text(death, "queue") == Some(queue) && text(death, "reason") == Some(reason.as_str())
    };
    let death = match deaths.iter().position(same).map(|at| deaths.remove(at)) {
        Some(HeaderValue::Table(mut before)) => {
            let count = before.get("count").and_then(HeaderValue::as_int).unwrap_or(0);
            before.insert("count", count.saturating_add(1));
            before
        }
        _ => first_of_its_kind(message, queue, reason, exchange, routing_key, now),
    };
    deaths.insert(0, HeaderValue::Table(death));
    message.headers.insert("x-death", HeaderValue::List(deaths));
    if message.headers.get("x-first-death-reason").is_none() {
        message.headers.insert("x-first-death-exchange", exchange);
        message.headers.insert("x-first-death-queue", queue);
        message.headers.insert("x-first-death-reason", reason.as_str());
    }
    message.expiration = None;
}

fn first_of_its_kind(
    message: &Envelope,
    queue: &str,
    reason: DeathReason,
    exchange: &str,
    routing_key: &str,
    now: SystemTime,
) -> Headers {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut death = Headers::from([
        ("count", HeaderValue::Int(1)),
        ("exchange", exchange.into()),
        ("queue", queue.into()),
        ("reason", reason.as_str().into()),
        ("routing-keys", HeaderValue::List(vec![routing_key.into()])),
        ("time", HeaderValue::Timestamp(seconds)),
    ]);
    if let Some(expiration) = message.expiration {
        death.insert("original-expiration", expiration.as_millis().to_string());
    }
    death
}

/// True if a dead message that comes to `queue` has been there before, and was not rejected since. Such a
/// message would go in circles for ever, so it is dropped.
pub(crate) fn is_cycle(message: &Envelope, queue: &str) -> bool {
    let Some(HeaderValue::List(deaths)) = message.headers.get("x-death") else { return false };
    let been_here = deaths.iter().position(|death| text(death, "queue") == Some(queue));
    been_here
        .is_some_and(|last| deaths[..=last].iter().all(|death| text(death, "reason") != Some("rejected")))
}

fn text<'a>(death: &'a HeaderValue, field: &str) -> Option<&'a str> {
    match death {
        HeaderValue::Table(death) => death.get(field)?.as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn deaths(message: &Envelope) -> Vec<(String, String, i64)> {
        let Some(HeaderValue::List(deaths)) = message.headers.get("x-death") else { return Vec::new() };
        let one = |death: &HeaderValue| {
            let HeaderValue::Table(table) = death else { panic!("a death is a table") };
            let count = table.get("count").and_then(HeaderValue::as_int).unwrap();
            (text(death, "queue").unwrap().to_owned(), text(death, "reason").unwrap().to_owned(), count)
        };
        deaths.iter().map(one).collect()
    }

    #[test]
    fn deaths_are_counted_by_queue_and_reason_newest_first() {
        let mut message = Envelope::new("{}");

        die(&mut message, "a", DeathReason::Expired, "", "a", UNIX_EPOCH);
        die(&mut message, "b", DeathReason::MaxLength, "x", "k", UNIX_EPOCH);
        die(&mut message, "a", DeathReason::Expired, "", "a", UNIX_EPOCH);

        let row = |queue: &str, reason: &str, count| (queue.to_owned(), reason.to_owned(), count);
        assert_eq!(deaths(&message), [row("a", "expired", 2), row("b", "maxlen", 1)]);
        assert_eq!(message.headers.get("x-first-death-queue"), Some(&"a".into()));
        assert_eq!(message.headers.get("x-first-death-reason"), Some(&"expired".into()));
        assert_eq!(message.headers.get("x-first-death-exchange"), Some(&"".into()));
    }

    #[test]
    fn dead_message_does_not_expire_again_but_says_when_it_would_have() {
        let mut message = Envelope::new("{}");
        message.expiration = Some(Duration::from_millis(1500));

        die(&mut message, "a", DeathReason::Expired, "x", "k", UNIX_EPOCH + Duration::from_millis(9_500));

        assert_eq!(message.expiration, None);
        let expected = Headers::from([
            ("count", HeaderValue::Int(1)),
            ("exchange", "x".into()),
            ("queue", "a".into()),
            ("reason", "expired".into()),
            ("routing-keys", HeaderValue::List(vec!["k".into()])),
            ("time", HeaderValue::Timestamp(9)),
            ("original-expiration", "1500".into()),
        ]);
        assert_eq!(
            message.headers.get("x-death"),
            Some(&HeaderValue::List(vec![HeaderValue::Table(expected)]))
        );
    }

    #[test]
    fn circle_without_a_rejection_is_a_cycle() {
        let mut message = Envelope::new("{}");
        assert!(!is_cycle(&message, "a"));

        die(&mut message, "a", DeathReason::Expired, "", "a", UNIX_EPOCH);
        die(&mut message, "b", DeathReason::Expired, "", "b", UNIX_EPOCH);

        assert!(is_cycle(&message, "a") && is_cycle(&message, "b") && !is_cycle(&message, "c"));
    }

    #[test]
    fn rejection_within_the_circle_breaks_the_cycle() {
        let rejected = Headers::from([("queue", "b"), ("reason", "rejected")]);
        let expired = Headers::from([("queue", "a"), ("reason", "expired")]);
        let mut message = Envelope::new("{}");
        let deaths = vec![HeaderValue::Table(rejected), HeaderValue::Table(expired)];
        message.headers.insert("x-death", HeaderValue::List(deaths));

        assert!(!is_cycle(&message, "a"));
    }

    #[test]
    fn garbage_in_x_death_is_no_harm() {
        let mut message = Envelope::new("{}");
        message.headers.insert("x-death", "nonsense");

        assert!(!is_cycle(&message, "a"));
        die(&mut message, "a", DeathReason::DeliveryLimit, "", "a", UNIX_EPOCH);

        assert_eq!(deaths(&message), [("a".to_owned(), "delivery_limit".to_owned(), 1)]);
    }
}
