//! A retry or dead letter whose copy is not confirmed leaves the original where it was.

use std::time::{Duration, SystemTime};

use leveret::PublishError;
use queue_core::envelope::Headers;
use queue_core::error::SettleError;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{Route, delay_ladder};

use crate::support::{
    Node, Proxy, Role, builder, client, connect, consume, message, next, queue, ready, send, soon, text,
    unique, until, until_ready,
};

on_each!(Node:
    original_stays_until_its_retry_is_confirmed,
    original_stays_until_its_snoozed_copy_is_confirmed,
    original_stays_until_its_dead_letter_is_confirmed,
    ack_lost_after_its_retry_runs_the_job_twice_and_loses_nothing,
    ack_lost_after_its_snooze_brings_two_that_are_told_apart,
    delayed_job_that_arrives_while_its_client_closes_arrives_once,
    retry_that_waits_when_both_connections_end_runs_once,
    delayed_job_that_waits_when_both_connections_end_arrives_once,
    delay_of_a_batch_begins_when_it_is_published,
    moved_job_is_acked_when_its_settlement_is_done,
);

async fn original_stays_until_its_retry_is_confirmed(node: Node) {
    let reason = Reason::new(ReasonKind::Failed, "the first attempt fails");
    original_stays(node, Settlement::Retry { after: Duration::from_millis(1), attempt: 2, reason }).await;
}

async fn original_stays_until_its_snoozed_copy_is_confirmed(node: Node) {
    let until = SystemTime::now() + Duration::from_millis(1);
    original_stays(node, Settlement::Snooze { until }).await;
}

async fn original_stays_until_its_dead_letter_is_confirmed(node: Node) {
    let reason = Reason::new(ReasonKind::Permanent, "no such mailbox");
    original_stays(node, Settlement::DeadLetter { reason }).await;
}

/// The copy is on its way when the network of the publisher fails; that of the consumer would carry an ack.
async fn original_stays(node: Node, settlement: Settlement) {
    let direct = client(&node.url).await;
    let (jobs, dead) = (queue(&direct, "jobs").await, queue(&direct, "dead").await);
    send(&direct, &jobs, 1).await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(500))).await;
    let route = Route { exchange: "".into(), routing_key: dead.clone() };
    let options = queue_core::broker::ConsumeOptions::new(jobs.clone()).dead_letter(Some(route));
    let mut consumer = client.broker().consume(options).await.unwrap();
    let original = next(&mut consumer).await;
    let id = original.envelope.id.clone();
    // A publisher at work: what has no channel yet sends nothing.
    let elsewhere = queue(&client, "elsewhere").await;
    send(&client, &elsewhere, 1).await;

    proxy.freeze_only(Role::Publisher);
    let settled = soon("the settlement", original.settle(settlement)).await;

    let Err(SettleError::Republish(PublishError::Unconfirmed { .. })) = settled else {
        panic!("{settled:?}");
    };
    // The connection that consumes is well: an ack would have arrived.
    let again = next(&mut consumer).await;
    assert_eq!((&again.envelope.id, again.envelope.attempt), (&id, 1));
    assert!(again.redelivered);
    // Dropped, not closed: that would wait for the publisher's last words.
    drop((again, consumer, client));
    until_ready(&direct, &jobs, 1).await;
    assert_eq!(ready(&direct, &dead).await, 0);
    let mut consumer = consume(&direct, &jobs, 1).await;
    assert_eq!(text(&next(&mut consumer).await), "0");
    direct.close().await;
}

/// The other order of failures: the copy is confirmed, and the ack does not arrive.
async fn ack_lost_after_its_retry_runs_the_job_twice_and_loses_nothing(node: Node) {
    let reason = Reason::new(ReasonKind::Failed, "the first attempt fails");
    let retry = Settlement::Retry { after: Duration::from_millis(1), attempt: 2, reason };
    both_come(node, retry, 2).await;
}

/// They have one id and one attempt.
async fn ack_lost_after_its_snooze_brings_two_that_are_told_apart(node: Node) {
    both_come(node, Settlement::Snooze { until: SystemTime::now() }, 1).await;
}

async fn both_come(node: Node, settlement: Settlement, attempt: u32) {
    let direct = client(&node.url).await;
    let jobs = queue(&direct, "jobs").await;
    send(&direct, &jobs, 1).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &jobs, 2).await;
    let original = next(&mut consumer).await;
    let id = original.envelope.id.clone();

    proxy.freeze_only(Role::Consumer);
    soon("the settlement", original.settle(settlement)).await.unwrap();
    proxy.reset();

    // In either order; and what moved the copy may have lost its ack as well.
    let (mut first, mut second) = (false, false);
    while !(first && second) {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.envelope.id, id);
        match (delivery.envelope.copy_number(), delivery.envelope.attempt) {
            (0, 1) => first |= delivery.redelivered,
            (1, its) if its == attempt => second = true,
            other => panic!("copy and attempt {other:?}"),
        }
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    client.close().await;
    direct.close().await;
}

/// Its client has moved it to its queue, and closes before it has heard the confirm.
async fn delayed_job_that_arrives_while_its_client_closes_arrives_once(node: Node) {
    let direct = client(&node.url).await;
    let jobs = queue(&direct, "jobs").await;
    let mut consumer = consume(&direct, &jobs, 1).await;
    let proxy = Proxy::to(&node.url);
    // Of its own, so that nobody else moves it.
    let mover = connect(&proxy.url(""), builder().namespace(unique("namespace")).unwrap()).await;
    let ladder = delay_ladder(mover.namespace());
    let elsewhere = queue(&mover, "elsewhere").await;
    let _keeps_the_router = consume(&mover, &elsewhere, 1).await;
    let mut delayed = message(&jobs, "x");
    delayed.not_before = Some(SystemTime::now() + Duration::from_secs(1));
    mover.broker().publish(delayed).await.unwrap();

    proxy.delay_only(Role::Publisher, Duration::from_millis(300));
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    mover.close().await;

    assert_eq!(ready(&direct, &mover.namespace().due()).await, 0, "it would be moved once more");
    for queue in ladder.queues {
        direct.operator().unwrap().delete(&queue.name).await.unwrap();
    }
    direct.close().await;
}

/// As when the node restarts. The original comes again, so the copy must not be sent on the next connection.
async fn retry_that_waits_when_both_connections_end_runs_once(node: Node) {
    let direct = client(&node.url).await;
    let (jobs, elsewhere) = (queue(&direct, "jobs").await, queue(&direct, "elsewhere").await);
    let words = unique("words");
    direct.broker().publish(message(&jobs, words.clone())).await.unwrap();
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &jobs, 1).await;
    let original = next(&mut consumer).await;
    send(&client, &elsewhere, 1).await;

    proxy.freeze_only(Role::Publisher);
    let reason = Reason::new(ReasonKind::Failed, "the first attempt fails");
    let retry = Settlement::Retry { after: Duration::ZERO, attempt: 2, reason };
    let settling = tokio::spawn(original.settle(retry));
    until("the copy is on its way", async || proxy.sent(words.as_bytes()) == 1).await;
    proxy.reset();

    let settled = soon("the settlement", settling).await.unwrap();
    assert!(matches!(settled, Err(SettleError::Lost)), "{settled:?}");
    let again = next(&mut consumer).await;
    assert_eq!(again.envelope.attempt, 1);
    // What the publisher sent again would have been sent before this.
    send(&client, &elsewhere, 1).await;
    again.settle(Settlement::Ack).await.unwrap();
    assert_eq!(proxy.sent(words.as_bytes()), 1);
    assert_eq!(ready(&direct, &jobs).await, 0);
    client.close().await;
    direct.close().await;
}

async fn delayed_job_that_waits_when_both_connections_end_arrives_once(node: Node) {
    let direct = client(&node.url).await;
    let (jobs, elsewhere) = (queue(&direct, "jobs").await, queue(&direct, "elsewhere").await);
    let proxy = Proxy::to(&node.url);
    // Of its own, so that nobody else moves it.
    let namespace = unique("namespace");
    let mover = connect(&proxy.url(""), builder().namespace(namespace.clone()).unwrap()).await;
    let enqueuer = connect(&node.url, builder().namespace(namespace).unwrap()).await;
    let ladder = delay_ladder(mover.namespace());
    let _keeps_the_router = consume(&mover, &elsewhere, 1).await;
    send(&mover, &elsewhere, 1).await;
    let words = unique("words");
    let mut delayed = message(&jobs, words.clone());
    // Shorter than any rung: it is moved once.
    delayed.not_before = Some(SystemTime::now() + Duration::from_millis(100));

    proxy.freeze_only(Role::Publisher);
    enqueuer.broker().publish(delayed).await.unwrap();
    until("it is on its way to its queue", async || proxy.sent(words.as_bytes()) == 1).await;
    proxy.reset();
    let mut consumer = consume(&direct, &jobs, 1).await;
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    send(&mover, &elsewhere, 1).await;
    mover.close().await;

    assert_eq!(proxy.sent(words.as_bytes()), 2, "once in vain, and once when it came again");
    assert_eq!(ready(&direct, &jobs).await, 0);
    enqueuer.close().await;
    for queue in ladder.queues {
        direct.operator().unwrap().delete(&queue.name).await.unwrap();
    }
    direct.close().await;
}

/// The ladder of a new namespace is declared between the two.
async fn delay_of_a_batch_begins_when_it_is_published(node: Node) {
    let direct = client(&node.url).await;
    let jobs = queue(&direct, "jobs").await;
    let mut consumer = consume(&direct, &jobs, 1).await;
    let proxy = Proxy::to(&node.url);
    let namespace = unique("namespace");
    let enqueuer = connect(&proxy.url(""), builder().namespace(namespace.clone()).unwrap()).await;
    let mover = connect(&node.url, builder().namespace(namespace).unwrap()).await;
    let elsewhere = queue(&direct, "elsewhere").await;
    let _keeps_the_router = consume(&mover, &elsewhere, 1).await;
    let delay = Duration::from_secs(8);
    let due = SystemTime::now() + delay;
    let mut delayed = message(&jobs, "x");
    delayed.not_before = Some(due);

    // The declaring connection takes seconds.
    proxy.delay(Duration::from_millis(300));
    enqueuer.broker().publish_all(vec![delayed]).await.remove(0).unwrap();
    let took = due.duration_since(SystemTime::now()).unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();

    let late = SystemTime::now().duration_since(due).unwrap();
    assert!(late < Duration::from_millis(1_500), "{late:?} late; when it was published {took:?} were left");
    let ladder = delay_ladder(mover.namespace());
    enqueuer.close().await;
    mover.close().await;
    for queue in ladder.queues {
        direct.operator().unwrap().delete(&queue.name).await.unwrap();
    }
    direct.close().await;
}

/// The copy may end this process as soon as it runs. An original that comes again then is a second copy.
async fn moved_job_is_acked_when_its_settlement_is_done(node: Node) {
    let direct = client(&node.url).await;
    let (jobs, apart) = (queue(&direct, "jobs").await, queue(&direct, "apart").await);
    for _ in 0..10 {
        send(&direct, &jobs, 2).await;
        let proxy = Proxy::to(&node.url);
        let client = client(&proxy.url("")).await;
        let mut consumer = consume(&client, &jobs, 2).await;
        // While the other one is out, an ack may wait for more of them.
        let (job, other) = (next(&mut consumer).await, next(&mut consumer).await);

        let settlement = Settlement::Move { queue: apart.clone(), headers: Headers::new() };
        soon("the settlement", job.settle(settlement)).await.unwrap();
        drop(proxy);

        let mut left = consume(&direct, &jobs, 2).await;
        let delivery = next(&mut left).await;
        assert_eq!(text(&delivery), "1", "only the other one comes again");
        delivery.settle(Settlement::Ack).await.unwrap();
        drop((other, consumer, client, left));
    }
    direct.close().await;
}
