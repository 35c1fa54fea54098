//! Events on every broker: what is said of one that no subscriber can read, that cannot be published, or that nobody
//! hears.

use leveret::{ErrorKind, Event, EventError, Properties, PublishError, Worker, error_chain, subscriber};
use queue_core::settlement::ReasonKind;
use serde::{Deserialize, Serialize};

use crate::support::foreign::Queue;
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const EXCHANGE: &str = "interop.event";
const QUEUE: &str = "interop.event.read";
const DEAD: &str = "interop.event.read.dead";
const THEIRS: &str = "interop.event.theirs";

const LEFTOVERS: Leftovers = Leftovers { queues: &[QUEUE, DEAD, THEIRS], exchanges: &[EXCHANGE] };

on_each_broker!(
    event_of_the_wrong_shape_is_a_dead_letter_that_names_subscriber_and_type,
    event_is_not_published_to_an_exchange_of_another_kind,
    subscriber_of_an_exchange_of_another_kind_does_not_start,
    event_that_must_route_and_that_nobody_hears_is_an_error,
);

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "interop.event", kind = "fanout")]
struct Placed {
    order: u64,
}

#[subscriber(queue = "interop.event.read")]
async fn read(_event: Placed) {}

async fn event_of_the_wrong_shape_is_a_dead_letter_that_names_subscriber_and_type(t: &Setting) {
    let worker = Worker::new(&t.client).task::<Read>();
    worker.declare().await.unwrap();
    let body = r#"{"order": "seven"}"#;
    t.client.publish_raw(EXCHANGE, "", body, Properties::new()).must_route().await.unwrap();
    t.client.publish(Placed { order: 7 }).must_route().await.unwrap();
    let mut worker = Work::start(worker);

    let reason = worker.dead().await;
    worker.succeeded().await;
    worker.stop().await;

    assert_eq!(reason.kind, ReasonKind::BadMessage);
    let words = &*reason.message;
    assert!(words.contains("`read`") && words.contains("`Placed`") && words.contains("seven"), "{words}");
    let letter = t.foreign.get(DEAD).await.expect("it lies in the dead-letter queue");
    assert_eq!((&*letter.body, letter.text("q-error")), (body.as_bytes(), Some(words)));
}

/// Declares the event's exchange as another program would that means something else by it.
async fn declare_as_direct(t: &Setting) {
    t.foreign.declare(&Queue { name: THEIRS, arguments: vec![] }).await.unwrap();
    t.foreign.bind(EXCHANGE, THEIRS, "key").await;
}

const CONFLICT: &str = "exchange `interop.event` exists with `type` = direct, but is declared with fanout;";

async fn event_is_not_published_to_an_exchange_of_another_kind(t: &Setting) {
    declare_as_direct(t).await;

    let refused = t.client.publish(Placed { order: 7 }).await.unwrap_err();

    assert!(matches!(refused, EventError::Declare { .. }), "{refused:?}");
    let words = error_chain(&refused);
    assert!(words.contains(CONFLICT), "{words}");
    assert!(t.foreign.get(THEIRS).await.is_none(), "it was published all the same");
}

async fn subscriber_of_an_exchange_of_another_kind_does_not_start(t: &Setting) {
    declare_as_direct(t).await;

    let refused = Worker::new(&t.client).task::<Read>().signals(false).run().await.unwrap_err();

    assert_eq!(refused.kind(), ErrorKind::Topology, "{refused:?}");
    let words = error_chain(&refused);
    assert!(words.contains(CONFLICT), "{words}");
}

async fn event_that_must_route_and_that_nobody_hears_is_an_error(t: &Setting) {
    t.client.publish(Placed { order: 1 }).await.unwrap();
    let refused = t.client.publish(Placed { order: 2 }).must_route().await.unwrap_err();

    assert!(matches!(refused, EventError::Publish(PublishError::Unroutable { .. })), "{refused:?}");
    assert!(error_chain(&refused).contains("nothing is bound to exchange `interop.event`"), "{refused}");
}
