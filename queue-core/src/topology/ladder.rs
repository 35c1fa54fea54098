//! The delay ladder: queues whose messages expire, and the arithmetic that picks one for a delay.

use std::time::Duration;

use super::declaration::{QueueDecl, Topology, millis};
use super::name::Name;
use super::namespace::Namespace;
use super::spec::QueueSpec;

/// The queues of the delay ladder, of `due` and of `unroutable`.
pub fn delay_ladder(namespace: &Namespace) -> Topology {
    let unroutable = unroutable(namespace.unroutable());
    let mut due = QueueDecl::new(namespace.due());
    due.arguments.insert("x-queue-type", "quorum");
    due.arguments.insert("x-delivery-limit", QueueSpec::NO_DELIVERY_LIMIT);
    due.arguments.insert("x-dead-letter-exchange", "");
    due.arguments.insert("x-dead-letter-routing-key", namespace.unroutable().into_owned());
    let rungs = (0..Namespace::RUNGS).map(|k| {
        let mut rung = QueueDecl::new(namespace.rung(k));
        rung.arguments.insert("x-queue-type", "quorum");
        rung.arguments.insert("x-message-ttl", millis(rung_wait(k)));
        rung.arguments.insert("x-dead-letter-exchange", "");
        rung.arguments.insert("x-dead-letter-routing-key", namespace.due().into_owned());
        rung.arguments.insert("x-dead-letter-strategy", "at-least-once");
        rung.arguments.insert("x-overflow", "reject-publish");
        rung
    });
    Topology { queues: [unroutable, due].into_iter().chain(rungs).collect(), ..Topology::default() }
}

/// The queue of delayed jobs whose own queue is missing. It has no delivery limit: RabbitMQ 4 sets one by itself, and would drop
/// a message that was looked at twenty times.
pub(crate) fn unroutable(name: Name) -> QueueDecl {
    let mut queue = QueueDecl::new(name);
    queue.arguments.insert("x-queue-type", "quorum");
    queue.arguments.insert("x-delivery-limit", QueueSpec::NO_DELIVERY_LIMIT);
    queue
}

/// How long rung `k` holds a message: `125 ms * 2^k`, from 0.125 s to 36 h.
pub fn rung_wait(k: u32) -> Duration {
    Duration::from_millis(125) * 2_u32.pow(k.min(Namespace::RUNGS - 1))
}

/// The rung for a delay: `floor(log2(delay / 125 ms))`, at most the last. `None` for a delay shorter than the lowest rung: the job
/// goes straight to `due`, which holds it.
pub fn rung_for(delay: Duration) -> Option<u32> {
    let steps = delay.as_millis() / 125;
    steps.checked_ilog2().map(|k| k.min(Namespace::RUNGS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ladder_reaches_from_an_eighth_of_a_second_to_a_day_and_a_half() {
        assert_eq!(rung_wait(0), Duration::from_millis(125));
        assert_eq!(rung_wait(20).as_secs() / 3600, 36);
        assert_eq!(rung_for(Duration::from_millis(124)), None);
        assert_eq!(rung_for(Duration::from_millis(125)), Some(0));
        assert_eq!(rung_for(Duration::from_millis(999)), Some(2));
        assert_eq!(rung_for(Duration::from_secs(1_000_000_000)), Some(20));
        assert_eq!(delay_ladder(&Namespace::default()).queues.len(), 23);
    }
}
