//! What an operator does: a look into a queue costs nothing that can be saved, and a replay is the same job once more.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use queue_core::admin::DeadLetter;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::error::ErrorKind;
use queue_core::settlement::{Reason, ReasonKind, Settlement, dead_copy};
use queue_core::topology::{BindingDecl, ExchangeKind, Name, QueueDecl, QueueSpec, Topology};

use crate::settle::{dead_letter, retry_in};
use crate::support::{Fixture, next, ready, take, text, until_ready};

/// A quorum queue of dead letters, as another program may declare it: what comes back more often than `limit` is gone.
pub(crate) async fn dead_queue(t: &Fixture, limit: i64) -> Name {
    let name = t.name("dead");
    let queue =
        QueueDecl::new(name.clone()).argument("x-queue-type", "quorum").argument("x-delivery-limit", limit);
    t.declare(&Topology::new().queue(queue)).await;
    name
}

/// Publishes dead letters that failed in `queue`.
pub(crate) async fn bury<T: Into<String>>(
    t: &Fixture,
    dead: &Name,
    queue: &str,
    texts: impl IntoIterator<Item = T>,
) {
    let reason = Reason::new(ReasonKind::Failed, "no luck");
    let letter = |text: T| dead_copy(Envelope::new(text.into()), queue, &reason, SystemTime::now());
    let publishes = texts.into_iter().map(|text| Publish::to_queue(dead.clone(), letter(text))).collect();
    for result in t.broker.publish_all(publishes).await {
        result.unwrap();
    }
}

fn texts(letters: &[DeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| String::from_utf8_lossy(&letter.payload).into_owned()).collect()
}

/// How often each message of a queue has come back so far, as the broker counts it; and whether it tells a release by an
/// operator from a loss.
pub(crate) async fn returns(t: &Fixture, queue: &Name, count: usize) -> Vec<(i64, bool)> {
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(100)).await;
    let mut returns = Vec::new();
    for _ in 0..count {
        let delivery = next(&mut consumer).await;
        let number = |name: &str| delivery.envelope.headers.get(name).and_then(HeaderValue::as_int);
        returns.push((number("x-delivery-count").unwrap_or(0), number("x-acquired-count").is_some()));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    returns
}

pub(crate) async fn abilities_are_those_that_it_has(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["a"]).await;
    let operator = t.client.operator().unwrap();

    let abilities = operator.abilities();

    let stats = operator.inspect(&queue).await.unwrap();
    assert_eq!(abilities.counts_unsettled, stats.unsettled.is_some());
    assert_eq!(abilities.counts_delayed, stats.delayed.is_some());
    assert_eq!(abilities.lists_queues, operator.queues().await.is_ok());
    assert_eq!(abilities.shows_delayed, operator.delayed(&queue, None, 1).await.is_ok());
    let mut walk = operator.walk(&queue).await.unwrap();
    assert_eq!(walk.next(10).await.unwrap().len(), 1);
    assert_eq!(abilities.looks_for_free, operator.inspect(&queue).await.unwrap().ready == 1);
    walk.end().await;
}

pub(crate) async fn queues_are_listed_or_the_remedy_is_told(t: &Fixture) {
    let (one, two) = (t.plain_queue("a").await, t.plain_queue("b").await);
    let mine = Topology::new().queue(QueueDecl::new(t.name("mine")).exclusive());
    t.declare(&mine).await;

    match t.client.operator().unwrap().queues().await {
        Ok(queues) => {
            assert!(queues.is_sorted());
            assert!(queues.iter().any(|queue| **queue == *one) && queues.iter().any(|queue| **queue == *two));
            assert!(queues.iter().all(|queue| **queue != *mine.queues[0].name), "an exclusive one is listed");
        }
        Err(error) => {
            assert!(!t.lists_bindings(), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            assert!(error.to_string().contains("LEVERET_MANAGEMENT_URL"), "{error}");
        }
    }
}

pub(crate) async fn missing_queue_is_not_found_by_an_operator(t: &Fixture) {
    let missing = t.name("missing");
    let operator = t.client.operator().unwrap();

    let walk = operator.walk(&missing).await.map(drop).unwrap_err();
    let letters = t.client.admin().dead_letters(&missing, 1).await.unwrap_err();
    let depth = t.client.admin().depth(&missing).await.unwrap_err();

    for error in [walk, letters, depth] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains(&*missing), "{error}");
    }
}

pub(crate) async fn queue_that_is_deleted_during_a_walk_is_not_found(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["a", "b"]).await;
    let operator = t.client.operator().unwrap();
    let mut walk = operator.walk(&queue).await.unwrap();
    assert_eq!(walk.next(1).await.unwrap().len(), 1);

    operator.delete(&queue).await.unwrap();
    let gone = walk.next(1).await.unwrap_err();

    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:?}");
    assert!(gone.to_string().contains(&*queue), "{gone}");
    walk.end().await;
}

pub(crate) async fn look_costs_a_letter_at_most_one_delivery(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    bury(t, &dead, "jobs", ["a", "b", "c", "d", "e"]).await;

    for _ in 0..3 {
        assert_eq!(texts(&t.client.admin().dead_letters(&dead, 3).await.unwrap()), ["a", "b", "c"]);
    }

    let is_rabbitmq = t.broker.info().system == "rabbitmq";
    for (at, (returns, tells_apart)) in returns(t, &dead, 5).await.into_iter().enumerate() {
        let most = if is_rabbitmq && !tells_apart && at < 3 { 3 } else { 0 };
        assert!(returns <= most, "letter {at} has come back {returns} times");
    }
}

/// RabbitMQ 4 drops what has come back twenty times, unless its queue says otherwise; here it is ten times.
pub(crate) async fn letters_outlive_any_number_of_looks(t: &Fixture) {
    let dead = dead_queue(t, 10).await;
    bury(t, &dead, "jobs", ["a", "b", "c", "d", "e"]).await;
    let admin = t.client.admin();
    let mut before = admin.dead_letters(&dead, 100).await.unwrap();

    for look in 0..25 {
        let letters = admin.dead_letters(&dead, 100).await.unwrap();
        assert_eq!(texts(&letters), ["a", "b", "c", "d", "e"], "look {look}");
    }

    for (before, after) in before.drain(..).zip(admin.dead_letters(&dead, 100).await.unwrap()) {
        assert_eq!((before.id, before.queue, before.kind), (after.id, after.queue, after.kind));
        assert_eq!((before.error, before.failed_at), (after.error, after.failed_at));
    }
}

/// What the broker itself wrote does not get lost when a letter that has come often is written anew.
pub(crate) async fn letter_of_the_broker_outlives_any_number_of_looks(t: &Fixture) {
    let (dead, queue) = (dead_queue(t, 10).await, t.name("jobs"));
    let jobs = QueueDecl::new(queue.clone())
        .argument("x-message-ttl", 20_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", dead.clone().into_owned());
    t.declare(&Topology::new().queue(jobs)).await;
    let exchange = t.exchange("events", ExchangeKind::Topic).await;
    t.declare(&Topology::new().binding(BindingDecl::new(exchange.clone(), queue.clone(), "a.*"))).await;
    t.broker.publish(Publish::to_exchange(exchange.clone(), "a.b", Envelope::new("event"))).await.unwrap();
    until_ready(&*t.broker, &dead, 1).await;
    let admin = t.client.admin();
    let before = admin.dead_letters(&dead, 10).await.unwrap().remove(0);

    for _ in 0..15 {
        admin.dead_letters(&dead, 10).await.unwrap();
    }

    let after = admin.dead_letters(&dead, 10).await.unwrap().remove(0);
    assert_eq!((before.id, after.kind.as_deref()), (after.id.clone(), Some("expired")));
    assert_eq!((before.queue, before.failed_at), (after.queue, after.failed_at));
    let later = admin.replay(&dead, 10, |_| true).await.unwrap();
    assert_eq!(later, 1);
    // The replay expires as well.
    let replayed = next(&mut t.consume(&dead).await).await.envelope;
    assert_eq!(replayed.headers.get(header::EXCHANGE), Some(&HeaderValue::from(&*exchange)));
    assert_eq!(replayed.headers.get(header::ROUTING_KEY), Some(&HeaderValue::from("a.b")));
}

pub(crate) async fn abandoned_look_loses_nothing(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    let all: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    bury(t, &dead, "jobs", all.iter().cloned()).await;
    let admin = t.client.admin();

    for after in 0..20 {
        let look = admin.dead_letters(&dead, 100);
        let _ = tokio::time::timeout(Duration::from_millis(after), look).await;
    }

    let looks = 20 + until_seen(t, &dead, all.len()).await;
    let is_rabbitmq = t.broker.info().system == "rabbitmq";
    for (returns, tells_apart) in returns(t, &dead, all.len()).await {
        let most = if is_rabbitmq && !tells_apart { looks } else { 0 };
        assert!(returns <= most, "a letter has come back {returns} times");
    }
}

/// Looks until `count` letters are seen, and says how many looks that took.
async fn until_seen(t: &Fixture, dead: &Name, count: usize) -> i64 {
    let deadline = Instant::now() + crate::support::wait::PATIENCE;
    let mut looks = 0;
    loop {
        looks += 1;
        let seen = t.client.admin().dead_letters(dead, 100).await.unwrap().len();
        if seen == count {
            return looks;
        }
        assert!(Instant::now() < deadline, "{seen} of {count} letters are seen");
    }
}

pub(crate) async fn operators_who_look_at_once_see_the_same(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    bury(t, &dead, "jobs", (0..40).map(|n| n.to_string())).await;
    let other = t.other_client().await;
    let (one, two, three) = (t.client.admin(), t.client.admin(), other.admin());

    for _ in 0..3 {
        let looks =
            (one.dead_letters(&dead, 100), two.dead_letters(&dead, 100), three.dead_letters(&dead, 100));
        let (one, two, three) = tokio::join!(looks.0, looks.1, looks.2);
        assert_eq!([one, two, three].map(|letters| letters.unwrap().len()), [40, 40, 40]);
    }
}

pub(crate) async fn operators_who_replay_at_once_replay_each_letter_once(t: &Fixture) {
    let (dead, queue) = (dead_queue(t, 1_000_000).await, t.quorum_queue("jobs").await);
    bury(t, &dead, &queue, (0..40).map(|n| n.to_string())).await;
    let other = t.other_client().await;
    let (one, two) = (t.client.admin(), other.admin());

    let (one, two) = tokio::join!(one.replay(&dead, 100, |_| true), two.replay(&dead, 100, |_| true));

    assert_eq!(one.unwrap() + two.unwrap(), 40);
    let replayed = take(&mut t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(40)).await, 40).await;
    assert_eq!(replayed.into_iter().collect::<HashSet<_>>().len(), 40);
    until_ready(&*t.broker, &queue, 0).await;
    until_ready(&*t.broker, &dead, 0).await;
}

pub(crate) async fn letter_shows_headers_and_properties(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut job = Envelope::new("{}");
    job.content_type = Some("application/json".to_owned());
    job.content_encoding = Some("utf-8".to_owned());
    job.app_id = Some("billing".to_owned());
    job.headers.insert("tenant", "blue");
    t.broker.publish(Publish::to_queue(queue.name().clone(), job)).await.unwrap();
    next(&mut t.work(&queue, 1).await).await.settle(dead_letter("no")).await.unwrap();

    let letters = t.client.admin().dead_letters(&queue.dead_queue().unwrap(), 1).await.unwrap();

    assert_eq!(letters[0].content_type.as_deref(), Some("application/json"));
    assert_eq!(letters[0].content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(letters[0].app_id.as_deref(), Some("billing"));
    assert_eq!(letters[0].headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(letters[0].headers.get(header::ERROR), Some(&"no".into()));
}

/// A job that is enqueued again by hand is another job; a replay is the same one, and says how often.
pub(crate) async fn replay_keeps_the_id_and_counts_itself(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let dead = queue.dead_queue().unwrap();
    let mut job = Envelope::new("{}");
    job.attempt = 6;
    job.headers.insert("tenant", "blue");
    let id = job.id.clone();
    let mut consumer = t.work(&queue, 1).await;
    t.broker.publish(Publish::to_queue(queue.name().clone(), job)).await.unwrap();

    for replays in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.envelope.id, id);
        assert_eq!(delivery.envelope.attempt, if replays == 0 { 6 } else { 1 });
        assert_eq!(delivery.envelope.headers.get("tenant"), Some(&"blue".into()));
        assert_eq!(delivery.envelope.headers.get(header::ERROR), None);
        let counted = delivery.envelope.headers.get(header::REPLAYS).and_then(HeaderValue::as_int);
        assert_eq!(counted, (replays > 0).then_some(replays));
        // Through a retry, too.
        delivery.settle(retry_in(Duration::ZERO)).await.unwrap();
        let retried = next(&mut consumer).await;
        assert_eq!(retried.envelope.headers.get(header::REPLAYS).and_then(HeaderValue::as_int), counted);
        retried.settle(dead_letter("no")).await.unwrap();
        let letters = t.client.admin().dead_letters(&dead, 10).await.unwrap();
        assert_eq!((letters.len(), &letters[0].id), (1, &id));
        assert_eq!(t.client.admin().replay(&dead, 10, |_| true).await.unwrap(), 1);
    }
}

pub(crate) async fn replay_reaches_behind_what_it_leaves(t: &Fixture) {
    let (dead, queue) = (dead_queue(t, 1_000_000).await, t.quorum_queue("jobs").await);
    let hopeless = (0..1500).map(|n| n.to_string());
    let hopeful = ["one", "two", "three"].map(str::to_owned);
    bury(t, &dead, &queue, hopeless.chain(hopeful)).await;
    let admin = t.client.admin();
    let is_hopeful = |letter: &DeadLetter| letter.payload.iter().all(u8::is_ascii_alphabetic);

    assert_eq!(admin.replay(&dead, 2, is_hopeful).await.unwrap(), 2);
    let mut consumer = t.consume(&queue).await;
    assert_eq!(take(&mut consumer, 2).await, ["one", "two"]);
    assert_eq!(admin.replay(&dead, 2, is_hopeful).await.unwrap(), 1);
    assert_eq!(take(&mut consumer, 1).await, ["three"]);
    assert_eq!(admin.replay(&dead, 2, is_hopeful).await.unwrap(), 0);
    until_ready(&*t.broker, &dead, 1500).await;
    // They stand in their order.
    assert_eq!(texts(&admin.dead_letters(&dead, 3).await.unwrap()), ["0", "1", "2"]);
}

/// Each is replayed once, and what fails again at once is not replayed for ever.
pub(crate) async fn replay_does_not_meet_its_own_jobs_again(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).ttl(Duration::ZERO);
    t.declare_spec(&spec).await;
    let dead = spec.dead_queue().unwrap();
    // A job that has the id of another is another job.
    let mut twin = Envelope::new("b");
    twin.id = "twin".into();
    t.send(spec.name(), ["a"]).await;
    for _ in 0..2 {
        t.broker.publish(Publish::to_queue(spec.name().clone(), twin.clone())).await.unwrap();
    }
    until_ready(&*t.broker, &dead, 3).await;

    let replayed = t.client.admin().replay(&dead, 1000, |_| true).await.unwrap();

    assert_eq!(replayed, 3);
    until_ready(&*t.broker, &dead, 3).await;
}

pub(crate) async fn replay_that_fails_says_how_many_it_replayed(t: &Fixture) {
    let (dead, queue) = (dead_queue(t, 1_000_000).await, t.quorum_queue("jobs").await);
    bury(t, &dead, &queue, ["a", "b"]).await;
    bury(t, &dead, &t.name("missing"), ["lost"]).await;
    bury(t, &dead, &queue, ["c"]).await;
    let admin = t.client.admin();

    let failed = admin.replay(&dead, 10, |_| true).await.unwrap_err();

    let words = queue_core::error::chain(&failed);
    assert!(words.contains("2 dead letters were replayed before it"), "{words}");
    assert_eq!((failed.done(), failed.kind()), (2, ErrorKind::Topology));
    assert_eq!(texts(&admin.dead_letters(&dead, 10).await.unwrap()), ["lost", "c"]);
    assert_eq!(take(&mut t.consume(&queue).await, 2).await, ["a", "b"]);
}

pub(crate) async fn discard_takes_out_what_is_picked(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    bury(t, &dead, "jobs", ["keep", "a", "b", "c"]).await;
    let admin = t.client.admin();
    let is_short = |letter: &DeadLetter| letter.payload.len() == 1;

    assert_eq!(admin.discard(&dead, 2, is_short).await.unwrap(), 2);

    assert_eq!(texts(&admin.dead_letters(&dead, 10).await.unwrap()), ["keep", "c"]);
    assert_eq!(admin.discard(&dead, 10, is_short).await.unwrap(), 1);
    assert_eq!(admin.discard(&dead, 10, is_short).await.unwrap(), 0);
    until_ready(&*t.broker, &dead, 1).await;
    let missing = admin.discard(&t.name("missing"), 10, is_short).await.unwrap_err();
    assert_eq!((missing.done(), missing.kind()), (0, ErrorKind::NotFound));
}

pub(crate) async fn purge_drops_all_dead_letters(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    bury(t, &dead, "jobs", ["a", "b"]).await;
    until_ready(&*t.broker, &dead, 2).await;

    assert_eq!(t.client.admin().purge(&dead).await.unwrap(), 2);

    assert!(t.client.admin().dead_letters(&dead, 10).await.unwrap().is_empty());
}

/// Its queue was deleted while it was delayed, and is back.
pub(crate) async fn delayed_job_whose_queue_was_gone_can_be_replayed(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let unroutable = t.name("unroutable");
    t.declare(&Topology::new().queue(crate::support::fixture::quorum(unroutable.clone()))).await;
    let mut job = Envelope::new("homeless");
    job.headers.insert(header::TARGET, queue.clone().into_owned());
    job.headers.insert(header::ETA, 5_i64);
    job.headers.insert(header::PRIORITY, 3_i64);
    t.broker.publish(Publish::to_queue(unroutable.clone(), job.clone())).await.unwrap();

    assert_eq!(
        t.client.admin().dead_letters(&unroutable, 1).await.unwrap()[0].queue.as_deref(),
        Some(&*queue)
    );
    assert_eq!(t.client.admin().replay(&unroutable, 10, |_| true).await.unwrap(), 1);

    let replayed = next(&mut t.consume(&queue).await).await;
    assert_eq!((text(&replayed), &replayed.envelope.id), ("homeless".to_owned(), &job.id));
    assert_eq!(replayed.envelope.priority, Some(3));
    assert_eq!(replayed.envelope.headers.get(header::TARGET), None);
    assert_eq!(ready(&*t.broker, &unroutable).await, 0);
}
