//! Waiting with a deadline. A deadline is generous: it only bounds how long a failure takes.

use std::time::{Duration, Instant};

use queue_core::broker::{Broker, Consumer, Delivery};
use queue_core::settlement::Settlement;

/// How long an event may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The next delivery.
#[track_caller]
pub(crate) fn next(consumer: &mut Consumer) -> impl Future<Output = Delivery> {
    // Not an `async fn`: the panic then names the line of the promise that waited.
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, consumer.next()).await {
            Ok(Some(Ok(delivery))) => delivery,
            Ok(Some(Err(error))) => panic!("{caller}: the consumer failed: {error}"),
            Ok(None) => panic!("{caller}: the consumer has ended"),
            Err(_) => panic!("{caller}: no delivery within {PATIENCE:?}"),
        }
    }
}

/// The next `count` deliveries as text, each acked.
#[track_caller]
pub(crate) fn take(consumer: &mut Consumer, count: usize) -> impl Future<Output = Vec<String>> {
    let caller = std::panic::Location::caller();
    async move {
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let taken = texts.len();
            let delivery = match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => delivery,
                other => panic!("{caller}: delivery {} of {count}: {other:?}", taken + 1),
            };
            texts.push(text(&delivery));
            delivery.settle(Settlement::Ack).await.unwrap_or_else(|error| panic!("{caller}: ack: {error}"));
        }
        texts
    }
}

/// A delivery's payload.
pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

/// How many messages are ready in a queue at this moment.
pub(crate) async fn ready(broker: &dyn Broker, queue: &str) -> u64 {
    broker
        .operator()
        .unwrap()
        .inspect(queue)
        .await
        .unwrap_or_else(|error| panic!("inspect `{queue}`: {error}"))
        .ready
}

/// Waits until exactly `count` messages are ready. Polls, because no broker signals a queue's depth.
pub(crate) async fn until_ready(broker: &dyn Broker, queue: &str, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = ready(broker, queue).await;
        if now == count {
            return;
        }
        assert!(Instant::now() < deadline, "`{queue}` has {now} ready after {PATIENCE:?}, not {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until it is so. Polls, because no broker signals what it has taken back.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !is_so().await {
            assert!(Instant::now() < deadline, "{caller}: waited {PATIENCE:?} until {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
