//! Any `tower::Layer` stands around the handler; none can settle a job.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll};

use leveret::{BoxError, Call, HandlerService, Outcome, Worker};
use queue_core::settlement::ReasonKind;
use tower_layer::{Layer, layer_fn};
use tower_service::Service;

use crate::support::{client, options, queue, start, task, work};

task!(Plain {} = "plain", queue: queue("layer"), options: options(), needs: [Log],
    async |call, _job| { call.arg::<Log>().write("handler") });
task!(Failing {} = "failing", queue: queue("layer"), options: options(), needs: [],
    async |_call, _job| { Err::<(), _>("no") });

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn write(&self, word: &'static str) {
        self.0.lock().unwrap().push(word);
    }
}

/// Notes its name before and after the inner service.
#[derive(Clone)]
struct Notes<S> {
    inner: S,
    log: Log,
    name: &'static str,
}

impl<S> Service<Call> for Notes<S>
where
    S: Service<Call, Response = Outcome>,
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Poller<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        assert_eq!(call.context().task(), "plain");
        let (inner, log, name) = (self.inner.call(call), self.log.clone(), self.name);
        Box::pin(async move {
            log.write(name);
            let outcome = inner.await;
            log.write(name);
            outcome
        })
    }
}

/// What a test makes of a job.
#[derive(Clone, Copy)]
pub(crate) struct Answers<S>(S, fn() -> Result<Outcome, BoxError>);

impl<S> Service<Call> for Answers<S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Outcome, BoxError>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Call) -> Self::Future {
        std::future::ready((self.1)())
    }
}

/// A layer that answers in the handler's stead.
pub(crate) fn answering(
    answer: fn() -> Result<Outcome, BoxError>,
) -> impl Layer<HandlerService, Service = Answers<HandlerService>> {
    layer_fn(move |inner| Answers(inner, answer))
}

#[tokio::test]
async fn last_layer_is_the_outermost() {
    let (client, _clock) = client();
    let log = Log::default();
    let notes = |name| {
        let log = log.clone();
        layer_fn(move |inner: HandlerService| Notes { inner, log: log.clone(), name })
    };
    client.enqueue(Plain {}).await.unwrap();

    let worker = Worker::new(&client).task::<Plain>().state(log.clone());
    work(worker.layer(notes("inner")).layer(notes("outer"))).await;

    assert_eq!(*log.0.lock().unwrap(), ["outer", "inner", "handler", "inner", "outer"]);
}

#[tokio::test]
async fn layer_may_replace_the_outcome() {
    let (client, _clock) = client();
    client.enqueue(Failing {}).await.unwrap();

    let worker = Worker::new(&client).task::<Failing>().layer(answering(|| Ok(Outcome::Success)));

    assert_eq!(work(worker).await.succeeded, 1);
}

#[tokio::test]
async fn error_of_a_layer_is_a_failure_and_the_job_is_retried() {
    let (client, _clock) = client();
    client.enqueue(Plain {}).await.unwrap();
    let worker = Worker::new(&client).task::<Plain>().state(Log::default());
    let mut worker = start(worker.layer(answering(|| Err("request timed out".into()))));

    let (_, reason) = worker.retried().await;

    assert_eq!((reason.kind, reason.message.as_str()), (ReasonKind::Failed, "request timed out"));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn panic_in_a_layer_is_caught() {
    let (client, _clock) = client();
    client.enqueue(Failing {}).await.unwrap();
    let mut worker =
        start(Worker::new(&client).task::<Failing>().layer(answering(|| panic!("in the layer"))));

    let (_, reason) = worker.retried().await;

    assert_eq!(reason.message, "the handler panicked: in the layer");
    worker.stop().await.unwrap();
}
