//! The contract: what every broker promises, tested on each of them through the same functions.
//!
//! [`contract`] lists the promises; the modules beside it hold them by subject. A promise `p` becomes the tests
//! `memory::p`, `sqlite::p`, `rabbitmq3::p`, `rabbitmq4::p`, `rabbitmq43::p`. Whoever fixes a broker's behaviour adds it here,
//! so that all keep it.
//!
//! A RabbitMQ node is found by `LEVERET_TEST_RABBITMQ3`, `..4` and `..43` (AMQP URLs of a 3.10, 4.0 and 4.3). Without one its
//! tests pass without doing anything, and one line on stderr says so; `./scripts/test` starts the nodes.

#[macro_use]
mod contract;

mod browse;
mod call;
mod client;
mod dead_letter;
mod delay;
mod give_back;
mod lifecycle;
mod limit;
mod liveness;
mod mark;
mod moved;
mod operator;
mod prefetch;
mod publish;
mod registry;
mod reply;
mod routing;
mod settle;
mod size;
mod snooze;
mod support;
mod topic;
mod topology;

contract!(memory: Place::InProcess);
#[cfg(feature = "sqlite")]
contract!(sqlite: Place::File);
contract!(rabbitmq3: Place::Environment("LEVERET_TEST_RABBITMQ3"));
contract!(rabbitmq4: Place::Environment("LEVERET_TEST_RABBITMQ4"));
contract!(rabbitmq43: Place::Environment("LEVERET_TEST_RABBITMQ43"));

/// On a laptop a missing node is a line on stderr. In CI a suite that left out RabbitMQ would be green and say nothing.
#[test]
fn ci_has_a_rabbitmq_3_node() {
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let missing = support::place::missing();
    assert!(
        !in_ci || !missing.contains(&"LEVERET_TEST_RABBITMQ3"),
        "CI=true, but LEVERET_TEST_RABBITMQ3 is not set: run the tests by ./scripts/test, which starts a node"
    );
}
