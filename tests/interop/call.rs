//! Calls on every broker that no longer have a caller.

use std::time::Duration;

use leveret::{CallError, JobEvent, Task as _, Worker, task};

use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers { queues: &["interop.call", "interop.call.dead"], exchanges: &[] };

on_each_broker!(call_that_its_caller_gave_up_is_acked_unrun);

/// Panics where it should not run.
#[task(queue = "interop.call")]
async fn halve(number: u64) -> Result<u64, String> {
    if number.is_multiple_of(2) { Ok(number / 2) } else { panic!("nobody waits for half of {number}") }
}

async fn call_that_its_caller_gave_up_is_acked_unrun(t: &Setting) {
    // What the first call declares takes a while, and the time of the second one is to be spent in the queue.
    let mut worker = worker(t);
    assert_eq!(t.client.call(Halve { number: 2 }).await.unwrap(), 1);
    worker.succeeded().await;
    worker.stop().await;

    let given_up = t.client.call(Halve { number: 7 }).timeout(Duration::from_secs(1)).await;
    assert!(matches!(given_up, Err(CallError::NoWorker { task: "halve", .. })), "{given_up:?}");
    let mut worker = self::worker(t);
    let fate = worker.fate().await;
    // Behind it in the queue: if the first one became anything else, that would have happened by now.
    let half = t.client.call(Halve { number: 8 }).await;
    worker.succeeded().await;
    worker.stop().await;

    assert!(matches!(fate, JobEvent::Abandoned { .. }), "{fate:?}");
    assert_eq!(half.unwrap(), 4);
    for queue in [Halve::queue().name(), &Halve::queue().dead_queue().unwrap()] {
        let left = t.client.admin().depth(queue).await.unwrap();
        assert_eq!(left.ready, 0, "{queue}: {left:?}");
    }
}

fn worker(t: &Setting) -> Work {
    Work::start(Worker::new(&t.client).task::<Halve>())
}
