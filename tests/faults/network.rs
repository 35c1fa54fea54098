//! Connections that break by RST, over and over. Workers and clients come back by themselves,
//! prefetch as before, and what was delivered on an old connection settles nothing on a new one.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use leveret::{PublishError, Task, task};
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;

use crate::support::{
    Book, Node, Proxy, Role, assert_no_more_is_sent, builder, client, connect, consume, fresh, message, next,
    queue, ready, rounds, send, soon, text, until, until_ready, work,
};

on_each!(Node:
    nothing_is_lost_by_one_reset_after_another,
    prefetch_is_exact_after_a_reset,
    deliveries_of_an_old_connection_settle_nothing_on_the_new_one,
    publisher_waits_for_a_broker_that_refuses_connections,
    publish_to_a_broker_that_stays_away_is_an_error_that_says_why,
    confirm_that_comes_too_late_is_nobody_elses,
    batch_may_take_longer_than_the_publish_timeout,
    what_waits_behind_a_silent_broker_is_not_told_that_it_is_away,
    next_host_takes_over,
    handler_that_blocks_its_thread_costs_no_heartbeat,
    every_connection_says_goodbye,
    connection_that_reads_the_clock_says_goodbye_at_any_moment,
);

#[task(queue = "test.faults.network.reset", concurrency = 3)]
async fn reset(book: &Book, number: u64) {
    book.ran(number);
}

async fn nothing_is_lost_by_one_reset_after_another(node: Node) {
    let direct = client(&node.url).await;
    fresh::<Reset>(&direct).await;
    let proxy = Proxy::to(&node.url);
    let (client, book) = (client(&proxy.url("")).await, Arc::new(Book::default()));
    let worker = work::<Reset>(&client, &book);
    let enqueuing = tokio::spawn({
        let (client, book) = (client.clone(), book.clone());
        async move {
            for number in 0.. {
                client.enqueue(Reset { number }).await.unwrap();
                book.confirmed(number);
            }
        }
    });

    for _ in 0..5 * rounds() {
        // Both go on after each: the producer, and the worker.
        book.until_confirmed(book.confirmed_count() + 20).await;
        book.until_ran(book.ran_count() + 20).await;
        proxy.reset();
    }
    book.until_confirmed(book.confirmed_count() + 20).await;
    enqueuing.abort();

    book.balance(&format!("{} resets, RabbitMQ {}", 5 * rounds(), node.number)).await;
    assert!(worker.is_running());
    worker.stop().await;
    client.close().await;
    direct.close().await;
}

async fn prefetch_is_exact_after_a_reset(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "prefetch").await;
    send(&direct, &queue, 50).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &queue, 2).await;
    let mut held = vec![next(&mut consumer).await, next(&mut consumer).await];
    assert_no_more_is_sent(&direct, &queue, 48).await;

    proxy.reset();

    held.extend([next(&mut consumer).await, next(&mut consumer).await]);
    assert_no_more_is_sent(&direct, &queue, 49).await;
    let texts: Vec<_> = held.iter().map(text).collect();
    assert_eq!(texts, ["0", "1", "0", "1"]);
    // One settlement makes room for one.
    held.remove(2).settle(Settlement::Ack).await.unwrap();
    assert_eq!(text(&next(&mut consumer).await), "2");
    client.close().await;
    direct.close().await;
}

/// A second ack, or one with an old connection's tag, would end the channel or ack another message. The first is
/// impossible by type: `Delivery::settle` takes the delivery.
async fn deliveries_of_an_old_connection_settle_nothing_on_the_new_one(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "old").await;
    send(&direct, &queue, 2).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &queue, 2).await;
    let [first, second] = [next(&mut consumer).await, next(&mut consumer).await];

    proxy.reset();
    let [again, and_again] = [next(&mut consumer).await, next(&mut consumer).await];
    assert!(again.redelivered && and_again.redelivered);
    let acked = first.settle(Settlement::Ack).await;
    assert!(matches!(acked, Err(SettleError::Lost)), "{acked:?}");
    drop(second);

    // Both are still unsettled, and the new channel lives.
    until_ready(&direct, &queue, 0).await;
    again.settle(Settlement::Ack).await.unwrap();
    and_again.settle(Settlement::Release).await.unwrap();
    let released = next(&mut consumer).await;
    assert_eq!(text(&released), "1");
    released.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    assert_eq!(ready(&direct, &queue).await, 0);
    direct.close().await;
}

async fn publisher_waits_for_a_broker_that_refuses_connections(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "refused").await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    client.broker().publish(message(&queue, "before")).await.unwrap();

    proxy.refuse();
    let tried = proxy.accepted();
    let publishing = tokio::spawn({
        let (client, message) = (client.clone(), message(&queue, "meanwhile"));
        async move { client.broker().publish(message).await }
    });
    proxy.until_accepted(tried + 1).await;
    assert!(!publishing.is_finished());
    proxy.pass();

    soon("the confirm", publishing).await.unwrap().unwrap();
    // Twice, if it had been sent on the connection that was cut: at least once is what was promised.
    let kept = ready(&direct, &queue).await;
    assert!((2..=3).contains(&kept), "{kept}");
    client.close().await;
    direct.close().await;
}

async fn publish_to_a_broker_that_stays_away_is_an_error_that_says_why(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "away").await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(500))).await;

    proxy.refuse();
    // The connection may not yet know that it was cut: then it is unknown whether the message arrived.
    let error = loop {
        match soon("an answer", client.broker().publish(message(&queue, "x"))).await {
            Err(PublishError::Unconfirmed { .. }) => {}
            other => break other.unwrap_err(),
        }
    };

    let words = leveret::error_chain(&error);
    assert!(matches!(error, PublishError::Unavailable { .. }), "{error:?}");
    assert!(words.contains("away for 500ms; nothing was sent"), "{words}");
    assert!(words.contains("127.0.0.1"), "{words}");
    soon("the close", client.close()).await;
    direct.close().await;
}

/// The first publish gives up waiting; its confirm then comes while the second waits for its own.
async fn confirm_that_comes_too_late_is_nobody_elses(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "late").await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_secs(2))).await;
    client.broker().publish(message(&queue, "warm")).await.unwrap();

    proxy.delay(Duration::from_millis(1500));
    let late = client.broker().publish(message(&queue, "late")).await;
    assert!(matches!(late, Err(PublishError::Unconfirmed { .. })), "{late:?}");
    proxy.delay(Duration::ZERO);
    let missing = message(&crate::support::unique("missing").into(), "nowhere");
    let missing = client.broker().publish(missing).await;

    assert!(matches!(missing, Err(PublishError::Unroutable { .. })), "{missing:?}");
    client.broker().publish(message(&queue, "next")).await.unwrap();
    assert_eq!(ready(&direct, &queue).await, 3);
    client.close().await;
    direct.close().await;
}

/// The timeout is for a broker that does nothing, not for how much it has to do. And what others publish meanwhile does not
/// wait for the whole batch.
async fn batch_may_take_longer_than_the_publish_timeout(node: Node) {
    const COUNT: usize = 6_000;
    const TIMEOUT: Duration = Duration::from_secs(2);
    let direct = client(&node.url).await;
    let queue = queue(&direct, "batch").await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(TIMEOUT)).await;
    // 16 KiB in 20 ms.
    proxy.delay(Duration::from_millis(20));

    let since = Instant::now();
    let batch = (0..COUNT).map(|number| message(&queue, format!("{number:0>1000}"))).collect();
    let batch = tokio::spawn({
        let client = client.clone();
        async move { client.broker().publish_all(batch).await }
    });
    until("the batch to be under way", async || ready(&direct, &queue).await > 0).await;
    client.broker().publish(message(&queue, "beside it")).await.unwrap();
    let is_beside = !batch.is_finished();
    let outcomes = soon("the confirms", batch).await.unwrap();
    let took = since.elapsed();

    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {COUNT} failed after {took:?}: {}", failed.len(), failed[0]);
    assert!(took > TIMEOUT + Duration::from_secs(1), "it took no longer than the timeout: {took:?}");
    assert!(is_beside, "what was published beside the batch waited for all of it");
    assert_eq!(ready(&direct, &queue).await, COUNT as u64 + 1);
    client.close().await;
    direct.close().await;
}

async fn what_waits_behind_a_silent_broker_is_not_told_that_it_is_away(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "silent").await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(500))).await;
    client.broker().publish(message(&queue, "warm")).await.unwrap();

    proxy.freeze();
    let batch = (0..20_000).map(|number| message(&queue, number.to_string())).collect();
    let outcomes = soon("the answers", client.broker().publish_all(batch)).await;

    let [mut sent, mut unsent] = [0, 0];
    for outcome in outcomes {
        match outcome.unwrap_err() {
            PublishError::Unconfirmed { .. } => sent += 1,
            error => {
                let words = error.to_string();
                assert!(words.contains("nothing was sent") && !words.contains("away"), "{words}");
                unsent += 1;
            }
        }
    }
    assert!(sent > 0 && unsent > 0, "{sent} sent, {unsent} not");
    proxy.reset();
    client.close().await;
    direct.close().await;
}

async fn next_host_takes_over(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "hosts").await;
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    let both = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
    let url = first.url("").replace(&format!("127.0.0.1:{}", first.port()), &both);
    let client = client(&url).await;
    let mut consumer = consume(&client, &queue, 1).await;
    client.broker().publish(message(&queue, "by the first")).await.unwrap();
    let running = next(&mut consumer).await;
    assert_eq!(second.accepted(), 0);

    first.refuse();

    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.settle(Settlement::Ack).await.unwrap();
    assert!(matches!(running.settle(Settlement::Ack).await, Err(SettleError::Lost)));
    client.broker().publish(message(&queue, "by the second")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.network.blocks")]
async fn blocks(book: &Book, number: u64) {
    // What no handler should do. Longer than the node waits for two heartbeats of one second.
    std::thread::sleep(Duration::from_secs(4));
    book.ran(number);
}

async fn handler_that_blocks_its_thread_costs_no_heartbeat(node: Node) {
    let direct = client(&node.url).await;
    fresh::<Blocks>(&direct).await;
    direct.enqueue(Blocks { number: 0 }).await.unwrap();
    let proxy = Proxy::to(&node.url);
    let (url, book) = (proxy.url("heartbeat=1"), Arc::new(Book::default()));

    // A program whose only thread is blocked.
    let program = tokio::task::spawn_blocking({
        let book = book.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = client(&url).await;
                let worker = work::<Blocks>(&client, &book);
                book.until_ran(1).await;
                worker.stop().await;
                client.close().await;
            });
        }
    });
    soon("its end", program).await.unwrap();

    let connections = [proxy.opened(Role::Publisher), proxy.opened(Role::Consumer)];
    assert_eq!(connections, [1, 1], "a connection was lost and made anew");
    assert_eq!(book.runs(), 1);
    assert_eq!(ready(&direct, Blocks::queue().name()).await, 0);
    direct.close().await;
}

/// Connection.Close: class 10, method 50, code 200, "OK".
const CONNECTION_CLOSE: &[u8] = b"\x00\x0a\x00\x32\x00\xc8\x02OK";

/// A connection that ends without a word is a warning in the server's log, and may take acks with it.
async fn every_connection_says_goodbye(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "goodbye").await;
    let proxy = Proxy::to(&node.url);

    for _ in 0..10 {
        let client = client(&proxy.url("")).await;
        send(&client, &queue, 10).await;
        let mut consumer = consume(&client, &queue, 10).await;
        for _ in 0..10 {
            next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
        }
        client.close().await;

        assert_eq!(ready(&direct, &queue).await, 0, "an ack was lost");
    }

    assert_eq!(proxy.sent(CONNECTION_CLOSE), proxy.accepted());
    direct.close().await;
}

/// The server's clock is read on a connection of its own, in the background: a close interrupts it wherever it is.
async fn connection_that_reads_the_clock_says_goodbye_at_any_moment(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "clock_goodbye").await;

    for round in 0..30 {
        let proxy = Proxy::to(&node.url);
        let client = client(&proxy.url("")).await;
        let mut later = message(&queue, "later");
        later.not_before = Some(SystemTime::now() + Duration::from_secs(600));
        client.broker().publish(later).await.unwrap();
        until("a connection for the clock", async || proxy.sent(b" clock") > 0).await;
        tokio::time::sleep(Duration::from_millis(round)).await;
        client.close().await;

        assert_eq!(proxy.sent(CONNECTION_CLOSE), proxy.accepted(), "after {round} ms");
    }
    direct.close().await;
}
