//! Queues of ours that somebody deletes: rungs of the delay ladder, `due`, work queues and where dead letters go. They are
//! declared again at the first sign, and no delayed job is lost with its queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{Client, EnqueueError, PublishError, Task, TaskResult, Worker, task};
use queue_core::clock::Clock;
use queue_core::settlement::Settlement;
use queue_core::topology::{Name, Namespace, QueueDecl, Topology, delay_ladder};

use crate::support::{
    Book, Private, builder, client, connect, fresh, log, message, rounds, run, unique, until, work,
};

on_each!(Private:
    deleted_rung_is_declared_again_by_a_process_that_only_enqueues,
    deleted_due_queue_is_declared_again_by_a_process_that_only_enqueues,
    whole_ladder_is_declared_again_though_jobs_are_retried_meanwhile,
    drained_and_deleted_queue_loses_no_delayed_job,
    queue_that_is_being_deleted_is_not_called_full,
    queue_that_crashes_is_not_called_full,
    deleted_dead_letter_queue_is_declared_again,
    clock_that_is_wrong_is_said_aloud,
    deleted_rung_is_declared_again_by_a_thread_without_a_runtime,
    headers_that_were_accepted_are_not_refused_on_the_ladder,
);

#[task(queue = "test.faults.ladder.later")]
async fn later(book: &Book, number: u64) {
    book.ran(number);
}

/// A client in a namespace of its own: other tests use the ladder of theirs.
async fn client_in(node: &Private, namespace: &str) -> Client {
    connect(&node.url, builder().namespace(namespace).unwrap()).await
}

async fn clean_up(direct: &Client, namespace: &Namespace) {
    for queue in delay_ladder(namespace).queues {
        direct.operator().unwrap().delete(&queue.name).await.unwrap();
    }
}

async fn deleted_rung_is_declared_again_by_a_process_that_only_enqueues(node: Private) {
    let (direct, name) = (client(&node.url).await, unique("namespace"));
    let namespace = Namespace::new(name.clone()).unwrap();
    fresh::<Later>(&direct).await;
    let enqueuer = client_in(&node, &name).await;
    let book = Arc::new(Book::default());
    let delay = Duration::from_millis(1_500);
    // Longer than it takes to declare the ladder: what is due by then does not need it.
    enqueuer.enqueue(Later { number: 0 }).delay(Duration::from_secs(4)).await.unwrap();
    book.confirmed(0);

    direct.operator().unwrap().delete(&namespace.rung(3)).await.unwrap();
    let enqueued = (1..20).map(|number| {
        let (enqueuer, book) = (enqueuer.clone(), book.clone());
        async move {
            enqueuer.enqueue(Later { number }).delay(delay).await.unwrap();
            book.confirmed(number);
        }
    });
    futures_util::future::join_all(enqueued).await;

    let other = client_in(&node, &name).await;
    let worker = work::<Later>(&other, &book);
    book.balance(&format!("a rung deleted, RabbitMQ {}", node.number)).await;
    assert!(!log::lines(&["WARN", &namespace.rung(3), "declared again"]).is_empty());
    worker.stop().await;
    other.close().await;
    enqueuer.close().await;
    clean_up(&direct, &namespace).await;
    direct.close().await;
}

async fn deleted_due_queue_is_declared_again_by_a_process_that_only_enqueues(node: Private) {
    // What a rung could not hand on it tries again after so long; otherwise after three minutes.
    node.eval("application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 1000).").await;
    let (direct, name) = (client(&node.url).await, unique("namespace"));
    let namespace = Namespace::new(name.clone()).unwrap();
    fresh::<Later>(&direct).await;
    let enqueuer = client_in(&node, &name).await;
    let book = Arc::new(Book::default());
    enqueuer.enqueue(Later { number: 0 }).delay(Duration::from_secs(4)).await.unwrap();
    book.confirmed(0);

    direct.operator().unwrap().delete(&namespace.due()).await.unwrap();
    // Shorter than the lowest rung, it goes there at once.
    enqueuer.enqueue(Later { number: 1 }).delay(Duration::from_millis(100)).await.unwrap();
    book.confirmed(1);

    let other = client_in(&node, &name).await;
    let worker = work::<Later>(&other, &book);
    book.balance(&format!("`due` deleted, RabbitMQ {}", node.number)).await;
    // Under its router too.
    direct.operator().unwrap().delete(&namespace.due()).await.unwrap();
    enqueuer.enqueue(Later { number: 2 }).delay(Duration::from_millis(700)).await.unwrap();
    book.confirmed(2);
    book.balance(&format!("`due` deleted under its router, RabbitMQ {}", node.number)).await;
    worker.stop().await;
    other.close().await;
    enqueuer.close().await;
    clean_up(&direct, &namespace).await;
    direct.close().await;
}

/// Its first attempt fails.
#[task(queue = "test.faults.ladder.retried", backoff = fixed("200ms"), concurrency = 5)]
async fn retried(context: &leveret::Context, book: &Book, number: u64) -> Result<(), &'static str> {
    if context.attempt() == 1 {
        return Err("the first attempt fails");
    }
    book.ran(number);
    Ok(())
}

async fn whole_ladder_is_declared_again_though_jobs_are_retried_meanwhile(node: Private) {
    let (direct, name) = (client(&node.url).await, unique("namespace"));
    let namespace = Namespace::new(name.clone()).unwrap();
    fresh::<Retried>(&direct).await;
    let client = client_in(&node, &name).await;
    let book = Arc::new(Book::default());
    let worker = work::<Retried>(&client, &book);
    client.enqueue(Retried { number: 0 }).await.unwrap();
    book.until_ran(1).await;

    for queue in delay_ladder(&namespace).queues {
        direct.operator().unwrap().delete(&queue.name).await.unwrap();
    }
    for number in 1..20 {
        client.enqueue(Retried { number }).await.unwrap();
        book.confirmed(number);
    }

    book.balance(&format!("the ladder deleted, RabbitMQ {}", node.number)).await;
    worker.stop().await;
    client.close().await;
    clean_up(&direct, &namespace).await;
    direct.close().await;
}

mod before {
    use leveret::task;

    use crate::support::Book;

    #[task(queue = "test.faults.ladder.drained")]
    pub(crate) async fn drained(book: &Book, number: u64) {
        book.ran(number);
    }
}

/// The same task after its queue has got other options.
#[task(queue = "test.faults.ladder.drained", max_length = 100_000)]
async fn drained(book: &Book, number: u64) {
    book.ran(number);
}

#[task(queue = "test.faults.ladder.unrelated")]
async fn unrelated(_book: &Book) {}

async fn drained_and_deleted_queue_loses_no_delayed_job(node: Private) {
    let direct = client(&node.url).await;
    fresh::<Drained>(&direct).await;
    let book = Arc::new(Book::default());
    let old = client(&node.url).await;
    let worker = work::<before::Drained>(&old, &book);
    // Any worker routes delayed jobs.
    let router = client(&node.url).await;
    let routing = work::<Unrelated>(&router, &book);
    old.enqueue(before::Drained { number: 0 }).await.unwrap();
    book.until_ran(1).await;
    let (enqueued, delay) = (Instant::now(), Duration::from_secs(5));
    let enqueuing = (1..=100).map(|number| {
        let (old, book) = (&old, &book);
        async move {
            old.enqueue(before::Drained { number }).delay(delay).await.unwrap();
            book.confirmed(number);
        }
    });
    futures_util::future::join_all(enqueuing).await;

    worker.stop().await;
    old.close().await;
    direct.operator().unwrap().delete(Drained::queue().name()).await.unwrap();
    assert!(enqueued.elapsed() < delay, "some were due before their queue was deleted");
    until("the delays", async || enqueued.elapsed() > delay + Duration::from_secs(2)).await;
    let said = log::lines(&["WARN", Drained::queue().name(), "does not exist", "start a worker"]);
    assert!((1..=4).contains(&said.len()), "{said:?}");

    let new = client(&node.url).await;
    let worker = work::<Drained>(&new, &book);
    book.balance(&format!("drained and deleted, RabbitMQ {}", node.number)).await;
    worker.stop().await;
    routing.stop().await;
    new.close().await;
    router.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.ladder.vanishing")]
async fn vanishing(_book: &Book, _number: u64) {}

async fn queue_that_is_being_deleted_is_not_called_full(node: Private) {
    let direct = client(&node.url).await;
    fresh::<Vanishing>(&direct).await;
    let client = client(&node.url).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let enqueuing = (0..8).map(|task| {
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move {
            let mut number = task;
            let mut errors = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number += 8;
                errors.extend(client.enqueue(Vanishing { number }).await.err());
            }
            (number, errors)
        })
    });
    let enqueuing: Vec<_> = enqueuing.collect();

    for _ in 0..10 * rounds() {
        until("some jobs", async || {
            direct
                .operator()
                .unwrap()
                .inspect(Vanishing::queue().name())
                .await
                .is_ok_and(|stats| stats.ready > 50)
        })
        .await;
        direct.operator().unwrap().delete(Vanishing::queue().name()).await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);

    for task in enqueuing {
        let (enqueued, errors) = task.await.unwrap();
        let full = errors.iter().filter(|error| matches!(error, EnqueueError::QueueFull { .. })).count();
        assert!(enqueued > 8 && full == 0 && errors.is_empty(), "{full} of {enqueued}: {errors:?}");
    }
    client.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.ladder.crashing", queue_type = "classic")]
async fn crashing(_book: &Book, _number: u64) {}

/// RabbitMQ nacks what a queue had not confirmed when its process died, as it does what a full queue refuses.
async fn queue_that_crashes_is_not_called_full(node: Private) {
    let direct = client(&node.url).await;
    fresh::<Crashing>(&direct).await;
    let queue = Crashing::queue().name();
    let client = client(&node.url).await;
    client.declare_queue(Crashing::queue()).await.unwrap();
    let process = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), Pid = amqqueue:get_pid(Q)"
    );
    let crash = async || {
        until("it is on its way", async || {
            node.ctl(&["list_channels", "messages_unconfirmed"]).await.contains('1')
        })
        .await;
        node.eval(&format!("{process}, exit(Pid, kill).")).await;
    };

    node.eval(&format!("{process}, sys:suspend(Pid).")).await;
    let (nacked, ()) = tokio::join!(client.broker().publish(message(queue, "{}")), crash());
    assert!(matches!(nacked, Err(PublishError::QueueFull { .. })), "{nacked:?}");
    until("its restart", async || direct.operator().unwrap().inspect(queue).await.is_ok()).await;
    node.eval(&format!("{process}, sys:suspend(Pid).")).await;
    let (enqueued, ()) = tokio::join!(client.enqueue(Crashing { number: 1 }).into_future(), crash());

    enqueued.unwrap();
    client.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.ladder.failing", dlx = "test.faults.ladder.dlx", retries = 0)]
async fn failing(book: &Book, number: u64) -> TaskResult {
    book.ran(number);
    Err("it fails".into())
}

async fn deleted_dead_letter_queue_is_declared_again(node: Private) {
    let direct = client(&node.url).await;
    fresh::<Failing>(&direct).await;
    let client = client(&node.url).await;
    let book = Arc::new(Book::default());
    let worker = run(Worker::new(&client).task::<Failing>().shared(book.clone()));
    client.enqueue(Failing { number: 0 }).await.unwrap();
    book.until_ran(1).await;
    let dead = Failing::queue().dead_queue().unwrap();
    until("the dead letter", async || {
        direct.operator().unwrap().inspect(&dead).await.is_ok_and(|stats| stats.ready == 1)
    })
    .await;

    direct.operator().unwrap().delete(&dead).await.unwrap();
    client.enqueue(Failing { number: 1 }).await.unwrap();

    until("the dead letter", async || {
        direct.operator().unwrap().inspect(&dead).await.is_ok_and(|stats| stats.ready == 1)
    })
    .await;
    // And its handler did not run again for that.
    assert_eq!(book.runs(), 2);
    worker.stop().await;
    client.close().await;
    direct.close().await;
}

async fn clock_that_is_wrong_is_said_aloud(node: Private) {
    let said = || log::lines(&["WARN", "this machine's clock is behind RabbitMQ's", "by=86"]).len();
    let before = said();
    let wrong = connect(&node.url, builder().clock(Clock::behind(Duration::from_secs(86_400)))).await;
    let right = client(&node.url).await;

    for client in [&wrong, &right] {
        client.enqueue(Later { number: 0 }).delay(Duration::from_millis(100)).await.unwrap();
        client.enqueue(Later { number: 0 }).delay(Duration::from_millis(100)).await.unwrap();
    }

    until("the warning", async || said() > before).await;
    assert_eq!(said(), before + 1);
    assert!(log::lines(&["this machine's clock is ahead of"]).is_empty());
    fresh::<Later>(&right).await;
    wrong.close().await;
    right.close().await;
}

/// A thread of a program that has no tokio runtime at all may enqueue.
async fn deleted_rung_is_declared_again_by_a_thread_without_a_runtime(node: Private) {
    let (direct, name) = (client(&node.url).await, unique("namespace"));
    let namespace = Namespace::new(name.clone()).unwrap();
    fresh::<Later>(&direct).await;
    let enqueuer = client_in(&node, &name).await;
    let delay = Duration::from_millis(1_500);
    enqueuer.enqueue(Later { number: 0 }).delay(delay).await.unwrap();

    direct.operator().unwrap().delete(&namespace.rung(3)).await.unwrap();
    let thread = std::thread::spawn({
        let enqueuer = enqueuer.clone();
        move || block_on(async move { enqueuer.enqueue(Later { number: 1 }).delay(delay).await })
    });
    let enqueued = tokio::task::spawn_blocking(|| thread.join()).await.unwrap();

    enqueued.expect("no panic").unwrap();
    enqueuer.close().await;
    clean_up(&direct, &namespace).await;
    direct.close().await;
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        let mut cx = std::task::Context::from_waker(&waker);
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// What waits for its queue says in a header for how long, so that it has larger headers than when it was enqueued.
async fn headers_that_were_accepted_are_not_refused_on_the_ladder(node: Private) {
    let direct = client(&node.url).await;
    let queue: Name = unique("large").into();
    let unrelated = crate::support::queue(&direct, "unrelated").await;
    let _router = crate::support::consume(&direct, &unrelated, 1).await;
    let delayed = |size| {
        let mut publish = message(&queue, "x");
        publish.envelope.headers.insert("large", "x".repeat(size));
        publish.not_before = Some(std::time::SystemTime::now() + Duration::from_millis(200));
        publish
    };
    let mut size = queue_core::envelope::Headers::MAX_SIZE;

    // The largest that is accepted.
    while let Err(error) = direct.broker().publish(delayed(size)).await {
        assert!(matches!(&error, PublishError::Invalid(words) if words.contains("headers take")), "{error}");
        size -= 1;
    }

    until("it waits", async || !log::lines(&["WARN", &queue, "does not exist"]).is_empty()).await;
    direct.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await.unwrap();
    let mut consumer = crate::support::consume(&direct, &queue, 1).await;
    crate::support::next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    let said = log::lines(&["could not be moved", "headers take"]);
    assert!(said.is_empty(), "{said:?}");
    direct.operator().unwrap().delete(&queue).await.unwrap();
    direct.close().await;
}
