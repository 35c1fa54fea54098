//! What the worker runs: the function with its payload and state, and what its result becomes.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use leveret::{CallError, Client, Context, JobEvent, ReasonKind, TaskError, TaskResult, Worker, task};

use crate::support::{dead, run, succeeded};

/// What a task may send by; a test injects one that keeps what it is given.
trait Mailer: Send + Sync {
    fn send(&self, to: &str);
}

#[derive(Default)]
struct FakeMailer(Mutex<Vec<String>>);

impl Mailer for FakeMailer {
    fn send(&self, to: &str) {
        self.0.lock().unwrap().push(to.to_owned());
    }
}

#[derive(Debug)]
enum MailError {
    BadAddress(u16),
    Busy,
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress(code) => write!(f, "bad address ({code})"),
            Self::Busy => f.write_str("busy"),
        }
    }
}

impl std::error::Error for MailError {}

#[tokio::test]
async fn references_are_the_workers_and_values_the_jobs() {
    #[task(queue = "q", name = "inject")]
    async fn inject(
        to: String,
        mailer: &dyn Mailer,
        context: &Context,
        suffix: &(String, u8),
        shared: &Arc<AtomicU32>,
    ) {
        shared.store(context.attempt(), Ordering::SeqCst);
        mailer.send(&format!("{to}{}{}", suffix.0, suffix.1));
    }
    let mailer = Arc::new(FakeMailer::default());
    let attempts = Arc::new(AtomicU32::new(0));

    let events = run(Inject { to: "ada".into() }, |worker| {
        worker.shared::<dyn Mailer>(mailer.clone()).state((String::from("@"), 1_u8)).state(attempts.clone())
    })
    .await;

    assert!(succeeded(&events), "{events:?}");
    assert_eq!(*mailer.0.lock().unwrap(), ["ada@1"]);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn missing_state_fails_at_start_and_names_task_and_type() {
    #[task(queue = "q", name = "wants")]
    async fn wants(number: &AtomicU32) {
        let _ = number;
    }
    let client = Client::connect("memory:").await.unwrap();

    let error = Worker::new(&client).signals(false).task::<Wants>().run_until_idle().await.unwrap_err();

    let message = error.to_string();
    assert!(message.contains("`wants`") && message.contains("AtomicU32"), "{message}");
}

#[tokio::test]
async fn pattern_makes_an_error_permanent() {
    #[task(queue = "q", backoff = fixed("0s"), retries = 1, permanent(MailError::BadAddress(code) if *code >= 500))]
    async fn bounce(code: u16) -> Result<(), MailError> {
        if code == 0 { Err(MailError::Busy) } else { Err(MailError::BadAddress(code)) }
    }
    #[task(queue = "q", retries = 1, permanent(MailError::BadAddress(550 | 551) | MailError::Busy))]
    async fn alternatives(code: u16) -> Result<(), MailError> {
        Err(MailError::BadAddress(code))
    }
    let as_is = |worker| worker;

    let permanent = run(Bounce { code: 550 }, as_is).await;
    let below = run(Bounce { code: 450 }, as_is).await;
    let other = run(Bounce { code: 0 }, as_is).await;
    let one_of_two = run(Alternatives { code: 551 }, as_is).await;

    let bad = |kind: &str, message: &str| (kind.to_owned(), message.to_owned());
    assert_eq!((permanent.len(), dead(&permanent)), (1, bad("permanent", "bad address (550)")));
    assert_eq!((below.len(), dead(&below)), (2, bad("failed", "bad address (450)")));
    assert_eq!((other.len(), dead(&other)), (2, bad("failed", "busy")));
    assert_eq!((one_of_two.len(), dead(&one_of_two)), (1, bad("permanent", "bad address (551)")));
}

#[tokio::test]
async fn pattern_outweighs_the_mark_of_the_error() {
    #[task(queue = "q", retries = 3, permanent(error if error.to_string().contains("gone")))]
    async fn marked() -> Result<(), TaskError> {
        Err(TaskError::retry("the mailbox is gone"))
    }

    let events = run(Marked {}, |worker| worker).await;

    assert_eq!(events.len(), 1);
    assert_eq!(dead(&events).0, "permanent");
}

#[tokio::test]
async fn any_return_type_of_a_task_will_do() {
    type Alias = Result<u32, Box<dyn std::error::Error + Send + Sync>>;
    #[task(queue = "q")]
    async fn unit() {}
    #[task(queue = "q", payload = ParseNumber)]
    async fn alias(number: String) -> Alias {
        Ok(number.parse()?)
    }
    #[task(queue = "q", retries = 0)]
    async fn words() -> Result<(), &'static str> {
        Err("in words")
    }
    #[task(queue = "q", retries = 0)]
    async fn any() -> TaskResult {
        "x".parse::<u8>()?;
        Ok(())
    }
    let as_is = |worker| worker;

    assert!(succeeded(&run(Unit {}, as_is).await));
    assert!(succeeded(&run(ParseNumber { number: "1".into() }, as_is).await));
    assert_eq!(dead(&run(Words {}, as_is).await).1, "in words");
    assert_eq!(dead(&run(Any {}, as_is).await).1, "invalid digit found in string");
}

#[tokio::test]
async fn function_without_async_runs_on_the_blocking_pool() {
    #[task(queue = "q")]
    fn hash(number: u32, threads: &Mutex<Vec<std::thread::ThreadId>>, context: &Context) -> TaskResult {
        threads.lock().unwrap().push(std::thread::current().id());
        // What a blocking thread may do and a thread of the runtime may not.
        tokio::runtime::Handle::current().block_on(async {});
        if number == context.attempt() { Ok(()) } else { Err("wrong".into()) }
    }
    let threads: Arc<Mutex<Vec<std::thread::ThreadId>>> = Arc::default();

    let events = run(Hash { number: 1 }, |worker| worker.shared(threads.clone())).await;

    assert!(succeeded(&events), "{events:?}");
    assert_ne!(*threads.lock().unwrap(), [std::thread::current().id()]);
}

#[tokio::test]
async fn panic_on_the_blocking_pool_is_a_panic_of_the_handler() {
    #[task(queue = "q", retries = 0)]
    fn breaks() {
        panic!("out of paper");
    }

    let events = run(Breaks {}, |worker| worker).await;

    let (kind, message) = dead(&events);
    assert_eq!(kind, "panic");
    assert!(message.contains("out of paper"), "{message}");
}

#[tokio::test]
async fn task_without_parameters_is_an_empty_object() {
    #[task(queue = "q")]
    async fn tick() {}

    assert_eq!(serde_json::to_string(&Tick {}).unwrap(), "{}");
    assert!(matches!(run(Tick {}, |worker| worker).await[..], [JobEvent::Succeeded { .. }]));
}

#[tokio::test]
async fn call_returns_what_the_function_returned() {
    #[task(queue = "calls", permanent(MailError::BadAddress(_)))]
    async fn letters(of: String) -> Result<usize, MailError> {
        if of.is_empty() { Err(MailError::BadAddress(7)) } else { Ok(of.len()) }
    }
    #[task(queue = "calls")]
    fn shout(text: String) -> Result<String, std::convert::Infallible> {
        Ok(text.to_uppercase())
    }
    let client = Client::connect("memory:").await.unwrap();
    let worker = Worker::new(&client).signals(false).task::<Letters>().task::<Shout>();
    let (handle, running) = (worker.handle(), tokio::spawn(worker.run()));

    let count: usize = client.call(Letters { of: "leveret".into() }).await.unwrap();
    let loud: String = client.call(Shout { text: "hop".into() }).await.unwrap();
    let refused = client.call(Letters { of: String::new() }).await;

    assert_eq!((count, &*loud), (7, "HOP"));
    match refused {
        Err(CallError::Handler { task: "letters", kind: ReasonKind::Permanent, message }) => {
            assert_eq!(message, "bad address (7)");
        }
        other => panic!("it was not refused: {other:?}"),
    }
    handle.shutdown();
    running.await.unwrap().unwrap();
}
