//! A broker that is away when a process starts, or when it first does something.

use std::time::{Duration, Instant};

use leveret::{EnqueueError, ErrorKind, PublishError, task};

use crate::support::{Node, Proxy, builder, client, connect, fresh, soon};

on_each!(Node:
    first_enqueue_of_a_task_waits_for_the_broker,
    first_enqueues_of_a_task_give_up_together,
);

#[task(queue = "test.faults.away.first")]
async fn first(_number: u64) {}

async fn first_enqueue_of_a_task_waits_for_the_broker(node: Node) {
    let direct = client(&node.url).await;
    fresh::<First>(&direct).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    proxy.refuse();

    let enqueuing = tokio::spawn({
        let client = client.clone();
        async move {
            tokio::join!(
                async { client.enqueue(First { number: 0 }).await },
                async { client.enqueue(First { number: 1 }).delay(Duration::from_millis(1)).await },
                client.enqueue_all([First { number: 2 }]),
            )
        }
    });
    let tried = proxy.accepted();
    proxy.until_accepted(tried + 3).await;
    assert!(!enqueuing.is_finished());
    proxy.pass();

    let (one, delayed, batch) = soon("the confirms", enqueuing).await.unwrap();
    one.unwrap();
    delayed.unwrap();
    batch.into_iter().next().unwrap().unwrap();
    client.close().await;
    direct.close().await;
}

async fn first_enqueues_of_a_task_give_up_together(node: Node) {
    let proxy = Proxy::to(&node.url);
    let timeout = Duration::from_secs(1);
    let client = connect(&proxy.url(""), builder().publish_timeout(timeout)).await;
    proxy.refuse();

    let since = Instant::now();
    let enqueues = (0..20).map(async |number| match number % 2 {
        0 => client.enqueue(First { number }).await,
        _ => client.enqueue(First { number }).delay(timeout).await,
    });
    let outcomes = futures_util::future::join_all(enqueues).await;

    // One after another they would take twenty seconds.
    assert!(since.elapsed() < 5 * timeout, "{:?}", since.elapsed());
    for outcome in outcomes {
        let Err(EnqueueError::Publish(error @ PublishError::Unavailable { .. })) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(error.to_string().contains("away for 1s; nothing was sent"), "{error}");
    }
    assert_eq!(client.depth::<First>().await.unwrap_err().kind(), ErrorKind::Connection);
    client.close().await;
}
