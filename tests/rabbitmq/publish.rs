//! Confirms and returns.

use std::collections::HashSet;

use queue_core::broker::Publish;
use queue_core::envelope::{HeaderValue, header};
use queue_core::error::PublishError;
use queue_core::settlement::Settlement;

use crate::support::{Node, consume, job, next, queue, queue_with, soon, unique};

on_each_node!(
    published_job_is_delivered_as_it_was,
    returns_are_attributed_to_the_right_publish_under_pipelining,
    returns_are_attributed_to_the_right_publish_among_those_of_one_id,
    returns_are_attributed_to_the_right_publish_among_many_publishers,
    full_queue_refuses_and_the_publisher_goes_on,
    missing_exchange_fails_only_its_own_publishes,
    missing_exchange_whose_name_the_server_does_not_tell_whole_fails_alone,
);

async fn published_job_is_delivered_as_it_was(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut sent = job("hello");
    sent.task = Some("send_email".into());
    sent.attempt = 3;
    sent.headers.insert("tenant", "blue");
    sent.headers.insert("raw", HeaderValue::Bytes(vec![0xff, 0x00].into()));

    broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;
    let delivery = next(&mut consumer).await;

    assert_eq!(delivery.envelope.id, sent.id);
    assert_eq!(delivery.envelope.task, sent.task);
    assert_eq!(delivery.envelope.payload, sent.payload);
    assert_eq!(delivery.envelope.attempt, 3);
    assert_eq!(delivery.envelope.headers, sent.headers);
    assert_eq!(delivery.routing_key, queue);
    assert!(!delivery.redelivered);
    delivery.settle(Settlement::Ack).await.unwrap();
    broker.close().await;
}

async fn returns_are_attributed_to_the_right_publish_under_pipelining(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let missing = unique("missing");

    let publishes: Vec<_> = (0..2000)
        .map(|i| {
            let to = if i % 4 == 0 { missing.clone() } else { queue.clone() };
            Publish::to_queue(to, job(&i.to_string()))
        })
        .collect();
    let outcomes = soon("the confirms", broker.publish_all(publishes)).await;

    for (i, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(()) => assert_ne!(i % 4, 0, "publish {i} was unroutable and seemed confirmed"),
            Err(PublishError::Unroutable { routing_key, .. }) => {
                assert_eq!(i % 4, 0, "publish {i} was kept and seemed unroutable");
                assert_eq!(*routing_key, missing);
            }
            Err(error) => panic!("publish {i}: {error}"),
        }
    }
    assert_eq!(broker.operator().unwrap().inspect(&queue).await.unwrap().ready, 1500);
    broker.close().await;
}

/// As replays of one dead letter are, or messages whose ids their sender chose. Some carry a header of the name by which
/// they are told apart, as a message that came from another Leveret may.
async fn returns_are_attributed_to_the_right_publish_among_those_of_one_id(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let missing = unique("missing");

    let publishes: Vec<_> = (0..2000_i64)
        .map(|i| {
            let mut envelope = job(&i.to_string());
            envelope.id = format!("id {}", i % 5).into();
            if i % 7 == 0 {
                envelope.headers.insert(header::PUBLISH, i);
            }
            Publish::to_queue(if i % 4 == 0 { missing.clone() } else { queue.clone() }, envelope)
        })
        .collect();
    let outcomes = soon("the confirms", broker.publish_all(publishes)).await;

    for (i, outcome) in outcomes.iter().enumerate() {
        let is_unroutable = matches!(outcome, Err(PublishError::Unroutable { .. }));
        assert_eq!(is_unroutable, i % 4 == 0, "publish {i}: {outcome:?}");
    }
    assert_eq!(broker.operator().unwrap().inspect(&queue).await.unwrap().ready, 1500);
    broker.close().await;
}

/// Their messages share one channel, and the confirms of one come with the returns of another.
async fn returns_are_attributed_to_the_right_publish_among_many_publishers(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let missing = unique("missing");

    let publishers = (0..8).map(|publisher| {
        let (broker, queue, missing) = (broker.clone(), queue.clone(), missing.clone());
        tokio::spawn(async move {
            for round in 0..100 {
                let is_lost = |n: usize| (publisher + round + n).is_multiple_of(3);
                let to = |n| if is_lost(n) { missing.clone() } else { queue.clone() };
                let batch = (0..round % 9).map(|n| Publish::to_queue(to(n), job("x"))).collect();
                for (n, outcome) in broker.publish_all(batch).await.iter().enumerate() {
                    assert_eq!(outcome.is_err(), is_lost(n), "publish {n} of round {round}: {outcome:?}");
                }
                let alone = broker.publish(Publish::to_queue(to(9), job("x"))).await;
                assert_eq!(alone.is_err(), is_lost(9), "publish alone in round {round}: {alone:?}");
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        soon("all confirms", publisher).await.unwrap();
    }
    broker.close().await;
}

async fn full_queue_refuses_and_the_publisher_goes_on(node: Node) {
    let broker = node.broker().await;
    let other = queue(&broker).await;
    let full = queue_with(&broker, |queue| {
        queue.argument("x-max-length", 1_i64).argument("x-overflow", "reject-publish")
    })
    .await;

    let mut outcomes = Vec::new();
    for _ in 0..20 {
        outcomes.push(broker.publish(Publish::to_queue(full.clone(), job("x"))).await);
    }

    assert!(outcomes[0].is_ok());
    assert!(matches!(outcomes[19], Err(PublishError::QueueFull { .. })), "{:?}", outcomes[19]);
    broker.publish(Publish::to_queue(other, job("y"))).await.unwrap();
    broker.close().await;
}

/// It quotes a quote as it is, and cuts its words off after 255 bytes.
async fn missing_exchange_whose_name_the_server_does_not_tell_whole_fails_alone(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    for exchange in ["it's missing".to_owned(), "x".repeat(250)] {
        let jobs = (0..50).map(|_| broker.publish(Publish::to_queue(queue.clone(), job("kept"))));
        let astray = broker.publish(Publish::to_exchange(exchange.clone(), "k", job("astray")));

        let (kept, astray) =
            soon("all answers", futures_util::future::join(futures_util::future::join_all(jobs), astray))
                .await;

        assert!(kept.iter().all(Result::is_ok), "{exchange}: {kept:?}");
        assert!(
            matches!(&astray, Err(PublishError::Unroutable { exchange: named, .. }) if *named == exchange),
            "{exchange}: {astray:?}"
        );
    }
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

async fn missing_exchange_fails_only_its_own_publishes(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let exchange = unique("missing");

    let publishes = (0..300).map(|i| match i % 100 {
        50 => Publish::to_exchange(exchange.clone(), "k", job("lost")),
        _ => Publish::to_queue(queue.clone(), job(&i.to_string())),
    });
    let outcomes = soon("the confirms", broker.publish_all(publishes.collect())).await;

    for (i, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(()) => assert_ne!(i % 100, 50),
            Err(PublishError::Unroutable { exchange: named, .. }) => {
                assert_eq!((i % 100, named), (50, &exchange));
            }
            Err(error) => panic!("publish {i}: {error}"),
        }
    }
    // Some may be there twice, since what was unconfirmed when the channel closed was sent again.
    let mut seen = HashSet::new();
    let mut consumer = consume(&broker, &queue, 100).await;
    while seen.len() < 297 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.envelope.headers.get(header::PUBLISH), None);
        seen.insert(delivery.envelope.payload.clone());
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    broker.close().await;
}
