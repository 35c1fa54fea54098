//! How a queue behaves: what its `x-` arguments mean.

use std::time::Duration;

use crate::envelope::HeaderValue;
use crate::error::{Error, ErrorKind};
use crate::topology::{Name, QueueDecl, QueueType, Route};

/// A queue's arguments, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueueRules {
    pub(crate) queue_type: QueueType,
    /// How long a message may wait; its own expiration may be shorter.
    pub(crate) message_ttl: Option<Duration>,
    /// How long the queue stays without consumers, until it is deleted.
    pub(crate) expires: Option<Duration>,
    pub(crate) max_length: Option<u64>,
    /// Bytes of all bodies that wait.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: Overflowing,
    /// Where messages go that die in the queue; the routing key is their own if `None`.
    pub(crate) dead_letter: Option<(Name, Option<Name>)>,
    /// True if a message that cannot be dead-lettered is kept until it can.
    pub(crate) keeps_dead: bool,
    /// How often a message may come back because its holder was lost.
    pub(crate) delivery_limit: Option<u64>,
    /// The highest level of priority; there are `top_level + 1`.
    pub(crate) top_level: u8,
    /// The level of a message that has no priority.
    default_level: u8,
}

/// The behaviour of a queue at its limit when one more message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflowing {
    /// Its oldest message makes room.
    DropHead,
    /// The publisher is refused.
    Reject,
    /// The publisher is refused, and the message dead-lettered.
    RejectAndDeadLetter,
}

impl QueueRules {
    /// Reads the arguments that a queue is declared with. Unknown ones are ignored, as AMQP wants it.
    ///
    /// # Errors
    /// If one has a value, or stands in a combination, that RabbitMQ refuses too.
    pub(crate) fn read(queue: &QueueDecl) -> Result<Self, Error> {
        let queue_type = match text(queue, "x-queue-type")? {
            None | Some("classic") => QueueType::Classic,
            Some("quorum") => QueueType::Quorum,
            Some(other) => return Err(bad(queue, "x-queue-type", other, "take `classic` or `quorum`")),
        };
        let quorum = queue_type == QueueType::Quorum;
        if quorum && (!queue.durable || queue.exclusive) {
            return Err(bad(queue, "x-queue-type", "quorum", "a quorum queue is durable and not exclusive"));
        }
        for argument in ["x-delivery-limit", "x-dead-letter-strategy"] {
            if let Some(value) = queue.arguments.get(argument).filter(|_| !quorum) {
                return Err(bad(queue, argument, value, "only a quorum queue takes it"));
            }
        }
        let overflow = match text(queue, "x-overflow")? {
            None | Some("drop-head") => Overflowing::DropHead,
            Some("reject-publish") => Overflowing::Reject,
            Some("reject-publish-dlx") if !quorum => Overflowing::RejectAndDeadLetter,
            Some(other) => {
                return Err(bad(queue, "x-overflow", other, "take `drop-head` or `reject-publish`"));
            }
        };
        let keeps_dead = match text(queue, "x-dead-letter-strategy")? {
            None | Some("at-most-once") => false,
            // With drop-head RabbitMQ falls back to at-most-once.
            Some("at-least-once") => overflow == Overflowing::Reject,
            Some(other) => {
                return Err(bad(
                    queue,
                    "x-dead-letter-strategy",
                    other,
                    "take `at-most-once` or `at-least-once`",
                ));
            }
        };
        let exchange = text(queue, "x-dead-letter-exchange")?.map(|name| Name::Owned(name.to_owned()));
        let key = text(queue, "x-dead-letter-routing-key")?.map(|name| Name::Owned(name.to_owned()));
        if exchange.is_none() && key.is_some() {
            let remedy = "name an `x-dead-letter-exchange` beside it";
            return Err(bad(queue, "x-dead-letter-routing-key", key.unwrap_or_default(), remedy));
        }
        let max_priority = number(queue, "x-max-priority", 255)?;
        if let Some(max) = max_priority.filter(|_| quorum) {
            let remedy = "a quorum queue has its levels by itself, remove it or take a classic queue";
            return Err(bad(queue, "x-max-priority", max, remedy));
        }
        let (top_level, default_level) = match (queue_type, max_priority) {
            // As RabbitMQ 4.3: 32 strict levels, and 4 for a message without a priority.
            (QueueType::Quorum, _) => (31, 4),
            (_, max) => (u8::try_from(max.unwrap_or(0)).unwrap_or(u8::MAX), 0),
        };
        let expires = number(queue, "x-expires", i64::MAX)?.map(Duration::from_millis);
        if expires.is_some_and(|after| after.is_zero()) {
            return Err(bad(queue, "x-expires", 0, "take at least 1 ms"));
        }
        Ok(Self {
            queue_type,
            message_ttl: number(queue, "x-message-ttl", i64::MAX)?.map(Duration::from_millis),
            expires,
            max_length: number(queue, "x-max-length", i64::MAX)?,
            max_bytes: number(queue, "x-max-length-bytes", i64::MAX)?,
            overflow,
            dead_letter: exchange.map(|exchange| (exchange, key)),
            keeps_dead,
            delivery_limit: number(queue, "x-delivery-limit", i64::MAX)?,
            top_level,
            default_level,
        })
    }

    /// The level a message waits at; higher ones are delivered first.
    pub(crate) fn level(&self, priority: Option<u8>) -> u8 {
        priority.unwrap_or(self.default_level).min(self.top_level)
    }

    /// How long a message may wait here: the shorter of the queue's word and its own.
    pub(crate) fn time_to_live(&self, expiration: Option<Duration>) -> Option<Duration> {
        match (self.message_ttl, expiration) {
            (Some(queue), Some(message)) => Some(queue.min(message)),
            (queue, message) => queue.or(message),
        }
    }

    /// True if there is any limit to what waits here.
    #[cfg(feature = "sqlite-system")]
    pub(crate) fn is_limited(&self) -> bool {
        self.max_length.is_some() || self.max_bytes.is_some()
    }

    /// True if so many waiting messages, of so many bytes, are more than the queue keeps.
    pub(crate) fn is_over(&self, length: u64, bytes: u64) -> bool {
        self.max_length.is_some_and(|max| length > max) || self.max_bytes.is_some_and(|max| bytes > max)
    }

    /// True if a message that was lost with its holder `losses` times may not be delivered once more. What is given back in
    /// order does not count, as on RabbitMQ 4.3.
    pub(crate) fn is_lost_too_often(&self, losses: u64) -> bool {
        self.delivery_limit.is_some_and(|limit| losses > limit)
    }

    /// Where a message goes that dies here and was published with `routing_key`.
    pub(crate) fn dead_letter_route(&self, routing_key: &Name) -> Option<Route> {
        let (exchange, key) = self.dead_letter.as_ref()?;
        let routing_key = key.as_ref().unwrap_or(routing_key).clone();
        Some(Route { exchange: exchange.clone(), routing_key })
    }
}

fn text<'a>(queue: &'a QueueDecl, argument: &str) -> Result<Option<&'a str>, Error> {
    match queue.arguments.get(argument) {
        None => Ok(None),
        Some(HeaderValue::String(text)) => Ok(Some(text)),
        Some(other) => Err(bad(queue, argument, other, "give it a text")),
    }
}

fn number(queue: &QueueDecl, argument: &str, max: i64) -> Result<Option<u64>, Error> {
    match queue.arguments.get(argument) {
        None => Ok(None),
        Some(HeaderValue::Int(int)) if (0..=max).contains(int) => Ok(Some(int.unsigned_abs())),
        Some(other) => Err(bad(queue, argument, other, &format!("give it an integer from 0 to {max}"))),
    }
}

fn bad(queue: &QueueDecl, argument: &str, value: impl std::fmt::Debug, remedy: &str) -> Error {
    let name = &queue.name;
    Error::new(ErrorKind::Topology, format!("queue `{name}` cannot have `{argument}` = {value:?}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(queue: &QueueDecl) -> String {
        QueueRules::read(queue).unwrap_err().to_string()
    }

    #[test]
    fn classic_queue_has_the_levels_it_asks_for() {
        let plain = QueueRules::read(&QueueDecl::new("q")).unwrap();
        let ten = QueueRules::read(&QueueDecl::new("q").argument("x-max-priority", 10_i64)).unwrap();

        assert_eq!(plain.level(Some(9)), plain.level(None));
        assert_eq!((ten.level(None), ten.level(Some(7)), ten.level(Some(200))), (0, 7, 10));
    }

    #[test]
    fn quorum_queue_has_32_levels_and_4_is_the_usual_one() {
        let rules = QueueRules::read(&QueueDecl::new("q").argument("x-queue-type", "quorum")).unwrap();

        assert_eq!((rules.level(None), rules.level(Some(0)), rules.level(Some(255))), (4, 0, 31));
    }

    #[test]
    fn shorter_time_to_live_wins() {
        let second = Some(Duration::from_secs(1));
        let minute = Some(Duration::from_secs(60));
        let plain = QueueRules::read(&QueueDecl::new("q")).unwrap();
        let limited = QueueRules::read(&QueueDecl::new("q").argument("x-message-ttl", 1000_i64)).unwrap();

        assert_eq!(limited.time_to_live(minute), second);
        assert_eq!(limited.time_to_live(None), second);
        assert_eq!(plain.time_to_live(minute), minute);
        assert_eq!(plain.time_to_live(None), None);
    }

    #[test]
    fn limits_are_inclusive() {
        let queue =
            QueueDecl::new("q").argument("x-queue-type", "quorum").argument("x-delivery-limit", 2_i64);
        let rules = QueueRules::read(&queue.argument("x-max-length", 2_i64)).unwrap();

        assert!(!rules.is_over(2, 1 << 40) && rules.is_over(3, 0));
        assert!(!rules.is_lost_too_often(2) && rules.is_lost_too_often(3));
    }

    #[test]
    fn nonsense_is_refused_with_queue_argument_value_and_remedy() {
        let quorum = || QueueDecl::new("q").argument("x-queue-type", "quorum");

        assert!(
            refusal(&QueueDecl::new("q").argument("x-queue-type", "odd")).contains("`classic` or `quorum`")
        );
        assert!(refusal(&QueueDecl::new("q").argument("x-message-ttl", "1s")).contains("an integer"));
        assert!(
            refusal(&QueueDecl::new("q").argument("x-max-length", -1_i64))
                .contains("`x-max-length` = Int(-1)")
        );
        assert!(refusal(&QueueDecl::new("q").argument("x-delivery-limit", 5_i64)).contains("only a quorum"));
        assert!(
            refusal(&QueueDecl::new("q").argument("x-dead-letter-routing-key", "k")).contains("exchange")
        );
        assert!(refusal(&quorum().exclusive()).contains("durable"));
        assert!(refusal(&quorum().argument("x-overflow", "reject-publish-dlx")).contains("drop-head"));
    }
}
