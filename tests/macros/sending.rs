//! The futures of `enqueue`, `call` and `publish`, where they are not simply awaited.

use std::future::IntoFuture as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{Event, Properties, task};
use serde::{Deserialize, Serialize};

#[task(queue = "sending")]
async fn double(n: u32) -> Result<u32, String> {
    Ok(2 * n)
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "sending.doubled", kind = "fanout")]
struct Doubled {
    n: u32,
}

#[tokio::test]
async fn it_is_a_future_for_spawn_join_and_timeout() {
    let queue = TestQueue::new().task::<Double>();
    let client = queue.client();

    let spawned = tokio::spawn(client.enqueue(Double { n: 1 }).delay(Duration::from_secs(1)));
    let (joined, also) = tokio::join!(client.enqueue(Double { n: 2 }), client.publish(Doubled { n: 2 }));
    let timed = tokio::time::timeout(Duration::from_secs(20), client.enqueue(Double { n: 3 }).into_future());
    let raw = tokio::spawn(client.publish_raw("", "sending", r#"{"n": 4}"#, Properties::new()).must_route());

    joined.unwrap();
    also.unwrap();
    timed.await.unwrap().unwrap();
    spawned.await.unwrap().unwrap();
    raw.await.unwrap().unwrap();
    assert_eq!(queue.drain().await.len(), 3);
    queue.assert_enqueued::<Double>(|job| job.n == 1);
}

#[tokio::test]
async fn call_can_be_spawned() {
    let queue = TestQueue::new().task::<Double>();

    let call = tokio::spawn(queue.client().call(Double { n: 21 }).timeout(Duration::from_secs(5)));
    let doubled = queue.serve(async { call.await.unwrap() }).await;

    assert_eq!(doubled.unwrap(), 42);
}

#[tokio::test]
async fn option_that_comes_too_late_is_a_panic_with_words() {
    let queue = TestQueue::new().task::<Double>();
    let mut sending = queue.client().enqueue(Double { n: 1 });
    (&mut sending).await.unwrap();

    let panic = catch_unwind(AssertUnwindSafe(|| drop(sending.priority(1)))).unwrap_err();

    let words = *panic.downcast::<&'static str>().unwrap();
    assert_eq!(words, "options are set before the first poll: this one is on its way");
}
