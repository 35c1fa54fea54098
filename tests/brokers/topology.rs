//! Declaring, inspecting, purging and deleting, and what each refuses.

use std::time::Duration;

use leveret::{Error, ErrorKind};
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, Name, QueueDecl, QueueSpec, Topology};

use crate::support::fixture::{message, quorum};
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, ready, take, text, until_ready};

#[track_caller]
pub(crate) fn assert_topology_error(error: &Error, names: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Topology, "{error:?}");
    let words = queue_core::error::chain(error);
    for name in names {
        assert!(words.contains(name), "does not say `{name}`: {words}");
    }
}

pub(crate) async fn same_declaration_twice_is_fine(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(10).ttl(std::time::Duration::from_secs(60));
    let other = t.other_client().await;

    t.declare_spec(&spec).await;
    t.send(spec.name(), ["kept"]).await;
    t.declare_spec(&spec).await;
    other.declare_queue(&spec).await.unwrap();

    assert_eq!(ready(&*t.broker, spec.name()).await, 1);
}

pub(crate) async fn other_arguments_are_refused_by_name(t: &Fixture) {
    let queue = t.name("jobs");
    let decl = |limit: i64| quorum(queue.clone()).argument("x-max-length", limit);
    t.declare(&Topology::new().queue(decl(5))).await;

    let error = t.broker.declare(&Topology::new().queue(decl(17))).await.unwrap_err();

    assert_topology_error(&error, &[&queue, "x-max-length", "5", "17"]);
    // And what to do about it.
    let words = queue_core::error::chain(&error);
    assert!(words.contains("policy"), "names no remedy: {words}");
    // The queue is as it was, and the broker at work.
    t.send(&queue, ["job"]).await;
    assert_eq!(ready(&*t.broker, &queue).await, 1);
}

pub(crate) async fn missing_or_added_arguments_are_refused(t: &Fixture) {
    let (plain, limited) = (t.plain_queue("plain").await, t.name("limited"));
    let decl = |queue: &str| QueueDecl::new(queue.to_owned()).argument("x-message-ttl", 60_000_i64);
    t.declare(&Topology::new().queue(decl(&limited))).await;

    let added = t.broker.declare(&Topology::new().queue(decl(&plain))).await.unwrap_err();
    let missing =
        t.broker.declare(&Topology::new().queue(QueueDecl::new(limited.clone()))).await.unwrap_err();

    assert_topology_error(&added, &[&plain, "x-message-ttl", "60000"]);
    assert_topology_error(&missing, &[&limited, "x-message-ttl", "60000"]);
}

pub(crate) async fn one_bad_declaration_does_not_undo_the_others(t: &Fixture) {
    let (good, bad) = (t.name("good"), t.plain_queue("bad").await);
    let contradiction = QueueDecl::new(bad.clone()).argument("x-max-length", 1_i64);
    let mixed = Topology::new().queue(QueueDecl::new(good.clone())).queue(contradiction);
    t.delete_later(&mixed);

    t.broker.declare(&mixed).await.unwrap_err();

    t.broker.operator().unwrap().inspect(&good).await.expect("declared before the bad one");
    t.send(&good, ["job"]).await;
    t.send(&bad, ["job"]).await;
}

pub(crate) async fn passive_declaration_only_looks(t: &Fixture) {
    let theirs = t.name("theirs");
    t.declare(&Topology::new().queue(quorum(theirs.clone()).argument("x-max-length", 9_i64))).await;
    let there = Topology::new()
        .queue(QueueDecl::new(theirs.clone()).passive())
        .exchange(passive_exchange("amq.topic", ExchangeKind::Topic));

    t.broker.declare(&there).await.unwrap();

    t.send(&theirs, ["job"]).await;
}

pub(crate) async fn passive_declaration_of_what_is_missing_is_an_error(t: &Fixture) {
    let (queue, exchange) = (t.name("missing-queue"), t.name("missing-exchange"));
    let of_queue = Topology::new().queue(QueueDecl::new(queue.clone()).passive());
    let of_exchange = Topology::new().exchange(passive_exchange(&exchange, ExchangeKind::Direct));

    let no_queue = t.broker.declare(&of_queue).await.unwrap_err();
    let no_exchange = t.broker.declare(&of_exchange).await.unwrap_err();

    assert_topology_error(&no_queue, &[&queue]);
    assert_topology_error(&no_exchange, &[&exchange]);
    assert!(t.broker.operator().unwrap().inspect(&queue).await.is_err(), "looking created it");
}

fn passive_exchange(name: &str, kind: ExchangeKind) -> ExchangeDecl {
    let mut exchange = ExchangeDecl::new(name.to_owned(), kind);
    exchange.passive = true;
    exchange
}

pub(crate) async fn quorum_queue_takes_no_highest_priority(t: &Fixture) {
    let name = t.name("quorum");
    let decl = quorum(name.clone()).argument("x-max-priority", 5_i64);

    let refused = t.broker.declare(&Topology::new().queue(decl)).await.unwrap_err();

    assert_topology_error(&refused, &[&name, "x-max-priority"]);
}

pub(crate) async fn exchange_of_another_kind_is_refused(t: &Fixture) {
    let exchange = t.exchange("news", ExchangeKind::Topic).await;
    let other_kind = ExchangeDecl::new(exchange.clone(), ExchangeKind::Fanout);

    let error = t.broker.declare(&Topology::new().exchange(other_kind)).await.unwrap_err();

    assert_topology_error(&error, &[&exchange, "topic", "fanout"]);
}

pub(crate) async fn binding_to_what_is_missing_is_an_error(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let exchange = t.exchange("news", ExchangeKind::Direct).await;
    let missing = t.name("missing");
    let no_exchange = BindingDecl::new(missing.clone(), queue, "key");
    let no_queue = BindingDecl::new(exchange, missing.clone(), "key");

    for binding in [no_exchange, no_queue] {
        let error = t.broker.declare(&Topology::new().binding(binding)).await.unwrap_err();
        assert_topology_error(&error, &[&missing]);
    }
}

pub(crate) async fn missing_queue_cannot_be_consumed_or_inspected_or_purged(t: &Fixture) {
    let missing = t.name("missing");

    let consume = t.broker.consume(ConsumeOptions::new(missing.clone())).await.unwrap_err();
    let inspect = t.broker.operator().unwrap().inspect(&missing).await.unwrap_err();
    let purge = t.broker.operator().unwrap().purge(&missing).await.unwrap_err();

    assert_topology_error(&consume, &[&missing]);
    for error in [inspect, purge] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains(&*missing), "{error}");
    }
}

pub(crate) async fn exclusive_queue_belongs_to_one_client(t: &Fixture) {
    let owner = t.other_client().await;
    let queue = t.name("mine");
    let mine = Topology::new().queue(QueueDecl::new(queue.clone()).exclusive());
    t.delete_later(&mine);
    owner.broker().declare(&mine).await.unwrap();
    let mut consumer = owner.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();

    let declared = t.broker.declare(&mine).await;
    let consumed = t.broker.consume(ConsumeOptions::new(queue.clone())).await;
    // Anybody may publish to it.
    t.broker.publish(message(&queue, "reply")).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, ["reply"]);

    assert!(declared.is_err(), "{declared:?}");
    assert!(consumed.is_err(), "{consumed:?}");
    // It goes with its client.
    owner.close().await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while t.broker.publish(message(&queue, "too late")).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the exclusive queue outlives its client");
    }
}

pub(crate) async fn exclusive_queue_can_be_looked_at_by_its_client_only(t: &Fixture) {
    let (queue, other) = (t.name("mine"), t.other_client().await);
    let passive = Topology::new().queue(QueueDecl::new(queue.clone()).passive());
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).exclusive())).await;

    t.broker.declare(&passive).await.unwrap();
    let refused = other.broker().declare(&passive).await.unwrap_err();

    assert_topology_error(&refused, &[&queue, "exclusive to another client"]);
}

/// Also by a declaration that does not name the queue, and taken out by another.
pub(crate) async fn exclusive_queue_can_be_bound_and_unbound_later(t: &Fixture) {
    let exchange = t.exchange("news", ExchangeKind::Direct).await;
    let (mine, theirs) = (t.name("mine"), t.plain_queue("theirs").await);
    t.declare(&Topology::new().queue(QueueDecl::new(mine.clone()).exclusive())).await;
    let binding = |queue: &Name| BindingDecl::new(exchange.clone(), queue.clone(), "key");
    let publish = async || {
        let event = Publish::to_exchange(exchange.clone(), "key", Envelope::new("event"));
        t.broker.publish(event).await.unwrap();
        (ready(&*t.broker, &mine).await, ready(&*t.broker, &theirs).await)
    };

    t.declare(&Topology::new().binding(binding(&mine)).binding(binding(&theirs))).await;
    assert_eq!(publish().await, (1, 1));

    t.declare(&Topology::new().unbind(binding(&mine)).unbind(binding(&theirs))).await;
    assert_eq!(publish().await, (1, 1), "it is bound still");
}

pub(crate) async fn inspect_counts_what_is_ready_and_who_consumes(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["a", "b", "c"]).await;
    let idle = t.broker.operator().unwrap().inspect(&queue).await.unwrap();
    let mut consumer = t.consume(&queue).await;

    let held = next(&mut consumer).await;
    let busy = t.broker.operator().unwrap().inspect(&queue).await.unwrap();

    assert_eq!((idle.ready, idle.consumers), (3, 0));
    assert_eq!((busy.ready, busy.consumers), (2, 1));
    if let Some(unsettled) = busy.unsettled {
        assert_eq!(unsettled, 1);
    }
    held.settle(Settlement::Ack).await.unwrap();
}

pub(crate) async fn purge_drops_what_is_ready_and_counts_it(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["held", "dropped", "dropped too"]).await;
    let mut consumer = t.consume(&queue).await;
    let held = next(&mut consumer).await;

    let purged = t.broker.operator().unwrap().purge(&queue).await.unwrap();

    assert_eq!(purged, 2);
    assert_eq!(t.broker.operator().unwrap().purge(&queue).await.unwrap(), 0);
    // What somebody works on is untouched.
    held.settle(Settlement::Release).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, ["held"]);
}

pub(crate) async fn deleting_what_is_missing_is_fine(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["gone with it"]).await;

    t.broker.operator().unwrap().delete(&queue).await.unwrap();
    t.broker.operator().unwrap().delete(&queue).await.unwrap();

    assert!(t.broker.operator().unwrap().inspect(&queue).await.is_err());
    assert!(t.broker.publish(message(&queue, "job")).await.is_err());
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await;
    assert_eq!(ready(&*t.broker, &queue).await, 0);
}

/// Other libraries go silent here, with one core at 95 %.
pub(crate) async fn consumer_survives_the_deletion_of_its_queue(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let operator = t.other_client().await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(3)).await;
    t.send(&queue, ["before"]).await;
    let held = next(&mut consumer).await;

    operator.operator().unwrap().delete(&queue).await.unwrap();
    // On RabbitMQ the consumer declares it again once it hears of the deletion. Nobody may be quicker: a quorum queue of
    // 3.10.8 that is deleted and declared in one breath never tells its consumer, and takes what it sends for sent twice.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let declares_by_itself = t.broker.info().system == "rabbitmq";
    while declares_by_itself && operator.operator().unwrap().inspect(&queue).await.is_err() {
        assert!(std::time::Instant::now() < until, "the consumer did not declare its queue again");
    }
    operator.broker().declare(&Topology::new().queue(quorum(queue.clone()))).await.unwrap();
    operator.broker().publish(message(&queue, "after")).await.unwrap();
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), "after");
    // The one that was held went with its queue; whatever is said of it, it harms nobody.
    let _ = held.settle(Settlement::Ack).await;
    delivery.settle(Settlement::Ack).await.unwrap();
    t.send(&queue, (0..5).map(|n| n.to_string())).await;
    take(&mut consumer, 5).await;
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn queue_deleted_by_its_own_client_can_be_declared_again(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["before"]).await;

    t.broker.operator().unwrap().delete(&queue).await.unwrap();
    // With other arguments: the old ones must not be remembered.
    let other = quorum(queue.clone()).argument("x-max-length", 10_i64);
    t.declare(&Topology::new().queue(other)).await;
    t.send(&queue, ["after"]).await;

    let mut consumer = t.consume(&queue).await;
    assert_eq!(take(&mut consumer, 1).await, ["after"]);
}
