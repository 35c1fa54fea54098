//! A handler may fail, panic, hang, block or lie; the worker goes on.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leveret::{JobEvent, Outcome, TaskError, TaskResult, Worker};
use queue_core::envelope::header;
use queue_core::settlement::ReasonKind;
use tokio::sync::Notify;

use crate::support::{
    client, options, patiently, queue, retries, start, take_dead_letter, task, timeout, work,
};

task!(Succeeds {} = "succeeds", queue: queue("failure"), options: options(), needs: [], async |_call, _job| {});

task!(Fails { until: u32 } = "fails", queue: queue("failure"), options: retries(2), needs: [],
async |call, job| {
    if call.context().attempt() < job.until { Err("mail server said 451") } else { Ok(()) }
});

task!(FailsForGood {} = "fails_for_good", queue: queue("failure"), options: options(), needs: [],
    async |_call, _job| { TaskResult::Err(TaskError::permanent("no such mailbox").into()) });

task!(Panics { how: String } = "panics", queue: queue("failure"), options: retries(1), needs: [],
async |_call, job| {
    match job.how.as_str() {
        "number" => std::panic::panic_any(7_u8),
        "destructor" => {
            let _bomb = Bomb;
        }
        "payload" => std::panic::panic_any(Bomb),
        how => panic!("no plan for {how}"),
    }
});

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the destructor panicked");
    }
}

task!(Hangs {} = "hangs", queue: queue("failure"), options: timeout(Duration::from_millis(20)), needs: [],
    async |_call, _job| { std::future::pending::<()>().await });

task!(HangsWithBomb {} = "hangs_with_bomb", queue: queue("failure"),
options: timeout(Duration::from_millis(20)), needs: [],
async |_call, _job| {
    let _bomb = Bomb;
    std::future::pending::<()>().await;
});

/// Holds blocking jobs until the test lets them go.
struct Gate {
    opened: Mutex<mpsc::Receiver<()>>,
    was_cancelled: Notify,
}

task!(Blocks {} = "blocks", queue: queue("blocking"), options: timeout(Duration::from_millis(20)),
needs: [Gate],
blocking |call, _job| {
    let gate = call.arg::<Gate>();
    gate.opened.lock().unwrap().recv().unwrap();
    if call.context().is_cancelled() {
        gate.was_cancelled.notify_one();
    }
});

task!(BlockingPanic {} = "blocking_panic", queue: queue("blocking"), options: options(), needs: [],
    blocking |_call, _job| { explode("on the blocking pool") });

fn explode(words: &str) {
    panic!("{words}");
}

#[tokio::test]
async fn failed_job_is_retried_until_it_succeeds() {
    let (client, clock) = client();
    let id = client.enqueue(Fails { until: 3 }).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Fails>());

    let (after, reason) = worker.retried().await;
    assert!(after >= Duration::from_secs(1) && after <= Duration::from_millis(1250), "{after:?}");
    assert_eq!((reason.kind, reason.message.as_str()), (ReasonKind::Failed, "mail server said 451"));
    clock.advance(Duration::from_secs(2));
    worker.retried().await;
    clock.advance(Duration::from_secs(2));

    let job = worker.succeeded().await;
    assert_eq!((job.id, job.attempt), (id.into(), 3));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn job_without_retries_left_is_a_dead_letter_that_says_why_and_where() {
    let (client, clock) = client();
    client.enqueue(Fails { until: 9 }).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Fails>().name("worker-7"));

    worker.retried().await;
    clock.advance(Duration::from_secs(2));
    worker.retried().await;
    clock.advance(Duration::from_secs(2));
    worker.dead().await;

    let dead = take_dead_letter(&client, &queue("failure")).await;
    let text = |name| dead.headers.get(name).and_then(|value| value.as_str().map(str::to_owned));
    assert_eq!(text(header::ERROR_KIND).as_deref(), Some("failed"));
    assert_eq!(text(header::ERROR).as_deref(), Some("mail server said 451"));
    assert_eq!(text(header::WORKER).as_deref(), Some("worker-7"));
    assert_eq!(text(header::QUEUE).as_deref(), Some("failure"));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn permanent_error_is_a_dead_letter_at_once() {
    let (client, _clock) = client();
    client.enqueue(FailsForGood {}).await.unwrap();

    let summary = work(Worker::new(&client).task::<FailsForGood>()).await;

    assert_eq!((summary.dead, summary.retried), (1, 0));
}

#[tokio::test]
async fn panicking_handler_is_retried_and_the_worker_goes_on() {
    let (client, _clock) = client();
    client.enqueue(Panics { how: "it".into() }).await.unwrap();
    client.enqueue(Succeeds {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Panics>().task::<Succeeds>());

    let (_, reason) = worker.retried().await;
    assert_eq!(reason.kind, ReasonKind::Panic);
    assert_eq!(reason.message, "the handler panicked: no plan for it");
    worker.succeeded().await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn panics_of_every_kind_are_caught() {
    let (client, _clock) = client();
    for how in ["number", "destructor", "payload"] {
        client.enqueue(Panics { how: how.into() }).await.unwrap();
    }
    let mut worker = start(Worker::new(&client).task::<Panics>());

    let words: Vec<_> = [worker.retried().await, worker.retried().await, worker.retried().await]
        .into_iter()
        .map(|(_, reason)| reason.message)
        .collect();

    let wordless = "the handler panicked: (the panic carried no text)";
    assert_eq!(words, [wordless, "the handler panicked: the destructor panicked", wordless]);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn panic_on_the_blocking_pool_is_caught() {
    let (client, _clock) = client();
    client.enqueue(BlockingPanic {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<BlockingPanic>());

    let (_, reason) = worker.retried().await;

    assert_eq!(reason.message, "the handler panicked: on the blocking pool");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn hanging_handler_times_out_and_the_worker_goes_on() {
    let (client, _clock) = client();
    client.enqueue(Hangs {}).await.unwrap();
    client.enqueue(HangsWithBomb {}).await.unwrap();
    client.enqueue(Succeeds {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Hangs>().task::<HangsWithBomb>().task::<Succeeds>());

    let (_, reason) = worker.retried().await;
    assert_eq!(reason.kind, ReasonKind::Timeout);
    assert_eq!(reason.message, "task `hangs` did not finish within its timeout of 20ms");
    let (_, reason) = worker.retried().await;
    assert_eq!(reason.kind, ReasonKind::Timeout);
    worker.succeeded().await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn blocking_job_keeps_its_slot_after_its_timeout_until_it_returns() {
    let (client, _clock) = client();
    let (open, opened) = mpsc::channel();
    let gate = Arc::new(Gate { opened: Mutex::new(opened), was_cancelled: Notify::new() });
    client.enqueue(Blocks {}).await.unwrap();
    client.enqueue(Blocks {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Blocks>().shared(Arc::clone(&gate)));

    // The first is settled while it still blocks, and the second must not begin.
    worker.started().await;
    let (_, reason) = worker.retried().await;
    assert_eq!(reason.kind, ReasonKind::Timeout);
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(50), worker.events.next()).await {
        assert!(matches!(event, Some(JobEvent::Released { .. })), "{event:?}");
    }

    open.send(()).unwrap();
    patiently(gate.was_cancelled.notified()).await;
    worker.started().await;
    open.send(()).unwrap();
    worker.fate().await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn worker_whose_slots_are_all_blocked_leaves_the_queue_to_others() {
    let (client, _clock) = client();
    let (open, opened) = mpsc::channel();
    let gate = Arc::new(Gate { opened: Mutex::new(opened), was_cancelled: Notify::new() });
    for _ in 0..4 {
        client.enqueue(Blocks {}).await.unwrap();
    }
    let task = || Worker::new(&client).task::<Blocks>().shared(Arc::clone(&gate));
    let mut blocked = start(task().concurrency(2));
    for _ in 0..2 {
        blocked.retried().await;
    }

    let mut other = start(task());
    other.started().await;

    for _ in 0..4 {
        open.send(()).unwrap();
    }
    other.stop().await.unwrap();
    blocked.stop().await.unwrap();
}

task!(Quick {} = "quick", queue: queue("quick").prefetch(10), options: options(), needs: [], async |_call, _job| {});

/// A slot changes hands without ever being free.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn worker_whose_jobs_end_gives_nothing_back() {
    let (client, _clock) = client();
    client.enqueue_all((0..20_000).map(|_| Quick {})).await.into_iter().for_each(|job| drop(job.unwrap()));

    let summary = work(Worker::new(&client).task::<Quick>().concurrency(2)).await;

    assert_eq!((summary.succeeded, summary.released), (20_000, 0));
}

task!(Waits {} = "waits_for_a_thread", queue: queue("blocking"), options: timeout(Duration::from_millis(20)),
needs: [Notify], blocking |call, _job| { call.arg::<Notify>().notify_one() });

/// It would run beside its own next attempt.
#[test]
fn blocking_job_that_found_no_thread_within_its_timeout_does_not_begin_afterwards() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (client, _clock) = client();
        let (free, taken) = mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || taken.recv());
        let began = Arc::new(Notify::new());
        client.enqueue(Waits {}).await.unwrap();
        let mut worker = start(Worker::new(&client).task::<Waits>().shared(Arc::clone(&began)));
        let (_, reason) = worker.retried().await;
        assert_eq!(reason.kind, ReasonKind::Timeout);

        free.send(()).unwrap();
        holding.await.unwrap().unwrap();
        // The one thread takes what waits in its order.
        tokio::task::spawn_blocking(|| ()).await.unwrap();

        let waited = tokio::time::timeout(Duration::ZERO, began.notified()).await;
        assert!(waited.is_err(), "it began after its timeout");
        worker.stop().await.unwrap();
    });
}

#[tokio::test]
async fn outcome_of_a_job_counts_even_if_its_listener_panics() {
    let (client, _clock) = client();
    client.enqueue(Succeeds {}).await.unwrap();

    let worker = Worker::new(&client).task::<Succeeds>().on_event(|event: &JobEvent| panic!("{event:?}"));
    let summary = work(worker).await;

    assert_eq!(summary.succeeded, 1);
    let _ = Outcome::Success;
}
