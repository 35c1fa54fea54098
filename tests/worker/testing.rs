//! What users write their unit tests with.

use std::future::IntoFuture as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use leveret::testing::{JobOutcome, TestQueue};
use leveret::{CallError, Context, Outcome};
use queue_core::settlement::ReasonKind;

use crate::support::{message, options, patiently, publish, queue, retries, task};

#[derive(Default)]
struct Mailer {
    sent: AtomicU32,
}

task!(SendEmail { to: String } = "send_email", queue: queue("testing.emails"), options: options(), needs: [Mailer],
    async |call, _job| { call.arg::<Mailer>().sent.fetch_add(1, Ordering::SeqCst); });
task!(Flaky {} = "flaky", queue: queue("testing.flaky"), options: retries(2), needs: [Context],
    async |call, _job| { if call.arg::<Context>().attempt() < 3 { Err("not yet") } else { Ok(()) } });
task!(Doomed { number: u32 } = "doomed", queue: queue("testing.doomed"), options: retries(0), needs: [],
    async |_call, job| { assert!(job.number == 0, "number {}", job.number) });
task!(Chain { left: u32 } = "chain", queue: queue("testing.chain"), options: options(), needs: [Context],
async |call, job| {
    let client = call.context().client();
    if job.left > 0 { client.enqueue(Chain { left: job.left - 1 }).await.map(drop) } else { Ok(()) }
});
task!(Double { n: u32 } -> u32 = "double", queue: queue("testing.double"), options: options(), needs: [],
    async |_call, job| { if job.n == 0 { Err("nothing to double") } else { Ok(2 * job.n) } });
task!(Quadruple { n: u32 } -> u32 = "quadruple", queue: queue("testing.quadruple"), options: options(), needs: [Context],
async |call, job| {
    let client = call.context().client();
    let double = client.call(Double { n: job.n }).await?;
    client.call(Double { n: double }).await
});

fn email(to: &str) -> SendEmail {
    SendEmail { to: to.into() }
}

/// What a failed assertion says.
fn words(assertion: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion held");
    *panic.downcast::<String>().expect("a panic with words")
}

#[tokio::test]
async fn enqueued_job_is_found_until_it_has_run() {
    let mailer = Arc::new(Mailer::default());
    let queue = TestQueue::new().task::<SendEmail>().shared(Arc::clone(&mailer));
    queue.client().enqueue(email("ada@example.com")).await.unwrap();
    queue.assert_enqueued::<SendEmail>(|job| job.to == "ada@example.com");
    queue.refute_enqueued::<SendEmail>(|job| job.to == "bob@example.com");
    assert_eq!(queue.all_enqueued::<SendEmail>().len(), 1);

    let outcomes = queue.drain().await;

    assert_eq!(outcomes, [Outcome::Success]);
    assert_eq!(mailer.sent.load(Ordering::SeqCst), 1);
    queue.refute_enqueued::<SendEmail>(|_| true);
}

#[tokio::test]
async fn failed_assertion_shows_what_is_enqueued_instead() {
    let queue = TestQueue::new();
    assert_eq!(
        words(|| queue.assert_enqueued::<SendEmail>(|_| true)),
        "no job of task `send_email` is enqueued, nor any other"
    );
    queue.client().enqueue(email("bob@example.com")).await.unwrap();
    queue.client().enqueue(Chain { left: 2 }).delay(Duration::from_secs(60)).await.unwrap();

    assert_eq!(
        words(|| queue.assert_enqueued::<SendEmail>(|job| job.to == "ada@example.com")),
        "no such job of task `send_email` is enqueued, but:\n  \
         send_email {\"to\":\"bob@example.com\"} in queue `testing.emails`\n  \
         chain {\"left\":2} in queue `testing.chain`, due in 60s"
    );
    assert_eq!(
        words(|| queue.refute_enqueued::<SendEmail>(|_| true)),
        "a job of task `send_email` is enqueued that should not be:\n  \
         send_email {\"to\":\"bob@example.com\"} in queue `testing.emails`"
    );
}

#[tokio::test]
async fn retry_runs_when_the_clock_reaches_it_and_not_before() {
    let queue = TestQueue::new().task::<Flaky>();
    queue.client().enqueue(Flaky {}).await.unwrap();

    assert_eq!(queue.drain().await.len(), 1);
    assert_eq!(queue.drain().await.len(), 0);
    queue.assert_enqueued::<Flaky>(|_| true);
    queue.advance(Duration::from_millis(999));
    assert_eq!(queue.drain().await.len(), 0);
    queue.advance(Duration::from_millis(1));
    assert_eq!(queue.drain().await, [Outcome::failed(ReasonKind::Failed, "not yet")]);
    queue.advance(Duration::from_secs(1));
    assert_eq!(queue.drain().await, [Outcome::Success]);
}

#[tokio::test]
async fn job_that_fails_for_good_is_among_the_dead_letters_and_no_longer_enqueued() {
    let queue = TestQueue::new().task::<Doomed>();
    queue.client().enqueue(Doomed { number: 7 }).await.unwrap();

    let outcomes = queue.drain().await;

    assert_eq!(outcomes, [Outcome::failed(ReasonKind::Panic, "the handler panicked: number 7")]);
    assert_eq!(queue.dead_letters::<Doomed>().len(), 1);
    queue.refute_enqueued::<Doomed>(|_| true);
}

#[tokio::test]
async fn drain_runs_what_jobs_enqueue_too() {
    let queue = TestQueue::new().task::<Chain>();
    queue.client().enqueue(Chain { left: 4 }).await.unwrap();

    assert_eq!(queue.drain().await.len(), 5);
}

#[tokio::test]
async fn perform_runs_one_job_and_enqueues_nothing() {
    let queue = TestQueue::new().state(Mailer::default());

    assert_eq!(queue.perform(email("ada@example.com")).await, Outcome::Success);
    assert_eq!(queue.perform(Flaky {}).await, Outcome::failed(ReasonKind::Failed, "not yet"));
    queue.refute_enqueued::<Flaky>(|_| true);
}

#[tokio::test]
async fn perform_can_run_as_a_tokio_task() {
    let queue = TestQueue::new();

    let outcome = tokio::spawn(queue.perform(Doomed { number: 0 })).await.unwrap();

    assert!(outcome.is_success());
}

#[tokio::test]
async fn missing_state_is_said_at_once() {
    let queue = TestQueue::new();

    let words = words(|| drop(queue.perform(email("ada@example.com"))));

    assert!(words.contains("task `send_email` takes `&worker::testing::Mailer`"), "{words}");
}

#[tokio::test]
async fn missing_state_is_said_before_any_job_has_run() {
    let queue = TestQueue::new().task::<Chain>().task::<SendEmail>();
    queue.client().enqueue(Chain { left: 0 }).await.unwrap();
    queue.client().enqueue(email("ada@example.com")).await.unwrap();

    // Neither is awaited: it is said at the call, and so at the line of the test.
    let drained = words(|| drop(queue.drain()));
    let served = words(|| drop(queue.serve(std::future::ready(()))));

    assert!(drained.contains("task `send_email` takes `&worker::testing::Mailer`"), "{drained}");
    assert_eq!(served, drained);
    queue.assert_enqueued::<Chain>(|_| true);
}

#[tokio::test]
async fn only_the_tasks_that_run_need_their_state() {
    let queue = TestQueue::new().task::<SendEmail>().task::<Chain>();
    queue.client().enqueue(Chain { left: 0 }).await.unwrap();

    assert_eq!(queue.drain().await, [Outcome::Success]);
}

#[tokio::test]
async fn call_is_answered_while_the_queue_serves() {
    let queue = TestQueue::new().task::<Double>();

    let four = queue.serve(queue.client().call(Double { n: 2 })).await;
    let failed = queue.serve(queue.client().call(Double { n: 0 })).await;

    assert_eq!(four.unwrap(), 4);
    assert!(
        matches!(&failed, Err(CallError::Handler { message, .. }) if message == "nothing to double"),
        "{failed:?}"
    );
    queue.refute_enqueued::<Double>(|_| true);
}

#[tokio::test]
async fn code_may_do_other_things_before_it_calls_and_tasks_may_call_tasks() {
    let queue = TestQueue::new().task::<Double>().task::<Quadruple>().shared(Arc::new(Mailer::default()));
    let client = queue.client();

    let results = queue
        .serve(async {
            client.enqueue(Chain { left: 0 }).await.unwrap();
            tokio::task::yield_now().await;
            tokio::join!(
                client.call(Quadruple { n: 1 }).into_future(),
                client.call(Quadruple { n: 2 }).into_future()
            )
        })
        .await;

    assert_eq!((results.0.unwrap(), results.1.unwrap()), (4, 8));
}

/// It waits for them, and they run beside it.
#[tokio::test]
async fn drained_job_that_calls_a_task_has_its_reply() {
    let queue = TestQueue::new().task::<Double>().task::<Quadruple>().task::<Chain>();
    queue.client().enqueue(Quadruple { n: 1 }).await.unwrap();
    queue.client().enqueue(Quadruple { n: 0 }).await.unwrap();

    let outcomes = patiently(queue.drain()).await;

    let are_good: Vec<_> = outcomes.iter().map(JobOutcome::is_success).collect();
    assert_eq!(are_good, [true, true, true, false, false], "{outcomes:?}");
}

#[tokio::test]
async fn call_that_was_made_before_is_answered_by_whoever_runs_jobs_then() {
    let queue = TestQueue::new().task::<Double>();
    let call = |n| queue.client().call(Double { n }).into_future();

    let (joined, _) = tokio::join!(call(2), queue.drain());
    let spawned = tokio::spawn(call(3));
    let later = queue.serve(async { spawned.await.unwrap() }).await;

    assert_eq!((joined.unwrap(), later.unwrap()), (4, 6));
}

#[tokio::test]
async fn call_panics_where_nobody_runs_jobs() {
    let queue = TestQueue::new().task::<Double>();

    let call = AssertUnwindSafe(queue.client().call(Double { n: 2 }).into_future());
    let panic = call.catch_unwind().await.expect_err("somebody ran it");

    let words = panic.downcast::<String>().expect("a panic with words");
    assert_eq!(
        *words,
        "task `double` was called, and nobody runs jobs: wrap the code that calls it in `queue.serve(..)`"
    );
}

#[tokio::test]
async fn call_times_out_by_the_clock_of_the_test() {
    let queue = TestQueue::new().task::<Chain>();
    let client = queue.client();
    let calling = tokio::spawn(client.call(Double { n: 2 }).timeout(Duration::from_secs(60)).into_future());
    queue.serve(tokio::task::yield_now()).await;

    queue.advance(Duration::from_secs(60));

    assert!(matches!(calling.await.unwrap(), Err(CallError::NoWorker { .. })));
}

#[tokio::test]
async fn job_of_an_unknown_task_is_an_outcome() {
    let queue = TestQueue::new().task::<Chain>();
    publish(queue.client(), &crate::support::queue("testing.chain"), message(Some("newer"), "{}")).await;

    let outcomes = queue.drain().await;

    assert_eq!(
        outcomes,
        [Outcome::failed(ReasonKind::UnknownTask, "task `newer` is not compiled into this test")]
    );
}
