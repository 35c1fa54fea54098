//! The layers around the handler: any `tower_layer::Layer`. Called by `execute`; calls the handler.
//!
//! A layer sees the [`Call`] and the [`Outcome`], never the delivery: the job is settled outside of it.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use queue_core::error::BoxError;
use queue_core::outcome::{Failure, Outcome};
use tower_service::Service;

use crate::handler::{BoxFuture, Call};

/// The handler with the layers inside: the inner service of a tower
/// [`Layer`](https://docs.rs/tower-layer/latest/tower_layer/trait.Layer.html) that is passed to
/// [`Worker::layer`](crate::Worker::layer).
///
/// A layer that refuses jobs of one tenant, without the crate `tower` (with `tower-layer` and `tower-service`):
///
/// ```
/// use std::task::{Context, Poll};
///
/// use leveret::{BoxError, Call, HandlerService, HeaderValue, Outcome, TaskError, Worker};
/// use tower_layer::layer_fn;
/// use tower_service::Service;
///
/// #[derive(Clone)]
/// struct Refuse {
///     tenant: &'static str,
///     inner: HandlerService,
/// }
///
/// impl Service<Call> for Refuse {
///     type Response = Outcome;
///     type Error = BoxError;
///     type Future = std::pin::Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;
///
///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
///         Poll::Ready(Ok(()))
///     }
///
///     fn call(&mut self, call: Call) -> Self::Future {
///         let tenant = call.context().headers().get("tenant").and_then(HeaderValue::as_str);
///         if tenant == Some(self.tenant) {
///             return Box::pin(async { Err(TaskError::permanent("this tenant is suspended").into()) });
///         }
///         let running = self.inner.call(call);
///         Box::pin(async move { Ok(running.await?) })
///     }
/// }
///
/// # fn f(worker: Worker) -> Worker {
/// worker.layer(layer_fn(|inner| Refuse { tenant: "blue", inner }))
/// # }
/// ```
#[derive(Clone, Default)]
pub struct HandlerService {
    /// `None` is the bare handler.
    layers: Option<Arc<dyn Layered>>,
}

impl HandlerService {
    /// The handler behind `service`.
    pub(crate) fn layered<S>(service: S) -> Self
    where
        S: Service<Call, Response = Outcome> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self { layers: Some(Arc::new(Erased(service))) }
    }

    pub(crate) fn run(&self, call: Call) -> BoxFuture<'static, Outcome> {
        match &self.layers {
            None => call.run(),
            Some(layers) => layers.run(call),
        }
    }
}

impl Service<Call> for HandlerService {
    type Response = Outcome;
    type Error = Infallible;
    type Future = HandlerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> HandlerFuture {
        HandlerFuture(self.run(call))
    }
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

/// The future of a handler, which [`HandlerService`] returns. It never fails: a failed job is an [`Outcome`].
#[must_use = "a handler runs only while this is awaited"]
pub struct HandlerFuture(BoxFuture<'static, Outcome>);

impl Future for HandlerFuture {
    type Output = Result<Outcome, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for HandlerFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerFuture").finish_non_exhaustive()
    }
}

/// A layered service without its type.
trait Layered: Send + Sync {
    fn run(&self, call: Call) -> BoxFuture<'static, Outcome>;
}

struct Erased<S>(S);

impl<S> Layered for Erased<S>
where
    S: Service<Call, Response = Outcome> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn run(&self, call: Call) -> BoxFuture<'static, Outcome> {
        let mut service = self.0.clone();
        Box::pin(async move {
            // A layer's own error, such as an elapsed timeout, is a failure like the handler's.
            let failed = |error: S::Error| Outcome::from(Failure::from_error(error.into()));
            let ready = poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed);
            if let Err(outcome) = ready {
                return outcome;
            }
            service.call(call).await.unwrap_or_else(failed)
        })
    }
}
