//! A task's code as the worker sees it: a function from a [`Call`] to an [`Outcome`]. Called by `execute`,
//! through the middleware.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use queue_core::error::{BoxError, chain};
use queue_core::event::EventBody;
use queue_core::format::{DecodeError, Format, from_object};
use queue_core::outcome::{Outcome, ReasonKind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::version;

/// A future on the heap that can go from thread to thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The function that `#[task]` generates.
pub type Handler = fn(Call) -> BoxFuture<'static, Outcome>;

/// One run of one job: the argument of a handler and of the layers around it ([`Worker::layer`](crate::Worker::layer)).
///
/// ```
/// use leveret::Call;
///
/// fn describe(call: &Call) -> String {
///     let context = call.context();
///     format!("{} {}: {} bytes", context.task(), context.id(), call.raw_payload().len())
/// }
/// ```
pub struct Call {
    payload: Bytes,
    /// An `Arc`, so that `&Context` is looked up like any state.
    context: Arc<Context>,
    run: Handler,
}

impl Call {
    pub(crate) fn new(payload: Bytes, context: Arc<Context>, run: Handler) -> Self {
        Self { payload, context, run }
    }

    /// Begins to run the task's code.
    pub(crate) fn run(self) -> BoxFuture<'static, Outcome> {
        (self.run)(self)
    }

    /// The job's context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The format of the reply; `None` for a job without a caller.
    #[doc(hidden)]
    pub fn reply_format(&self) -> Option<Format> {
        self.context.is_call.then(|| self.context.format.as_ref().copied().unwrap_or_default())
    }

    /// The payload as it crossed the wire.
    pub fn raw_payload(&self) -> &Bytes {
        &self.payload
    }

    /// The decoded payload, or the outcome of a message whose payload does not decode.
    ///
    /// # Errors
    /// The outcome of a bad message: a dead letter with the reason.
    #[doc(hidden)]
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Outcome> {
        let format = self.format()?;
        format.decode(&self.payload).map_err(|error| self.bad_payload(error))
    }

    /// The payload of a task, whose older versions `upcast` converts to `version`.
    ///
    /// # Errors
    /// The outcome of a bad message: a dead letter with the reason.
    #[doc(hidden)]
    pub fn upcast_payload<T: DeserializeOwned, E: Into<BoxError>>(
        &self,
        version: u32,
        upcast: impl FnOnce(u32, Value) -> Result<Value, E>,
    ) -> Result<T, Outcome> {
        // `process` has refused a header that is no version.
        let from = version::of(&self.context.headers).unwrap_or(version);
        if from >= version {
            return self.payload();
        }
        let format = self.format()?;
        let older = match format.to_json(&self.payload) {
            Ok(older @ Value::Object(_)) => older,
            Ok(_) => return Err(self.bad_payload(DecodeError::NotAnObject(format))),
            Err(error) => return Err(self.bad_payload(error)),
        };
        let task = self.context.task();
        let bad = |words: String| {
            let words = format!("task `{task}` cannot take a payload of version {from}: {}", shorten(words));
            Outcome::dead(ReasonKind::BadMessage, words)
        };
        match upcast(from, older).map_err(|error| bad(chain(&*error.into())))? {
            Value::Object(payload) => from_object(payload)
                .map_err(|error| bad(format!("`upcast` made of it what does not fit: {error}"))),
            _ => Err(bad("`upcast` made of it what is not a JSON object".to_owned())),
        }
    }

    /// The format of the payload, or the outcome of a message in an unknown format.
    fn format(&self) -> Result<Format, Outcome> {
        self.context.format.as_ref().copied().map_err(|unknown| {
            let task = self.context.task();
            Outcome::dead(
                ReasonKind::BadMessage,
                format!("the payload of task `{task}` cannot be read: {unknown}"),
            )
        })
    }

    fn bad_payload(&self, error: DecodeError) -> Outcome {
        let task = self.context.task();
        let words = match error {
            DecodeError::NotAnObject(format) => {
                let send = match format {
                    Format::Json => "`{\"parameter\": value}`",
                    _ => "a map from parameter to value",
                };
                format!("the payload of task `{task}` is {error}; send {send}")
            }
            misfit => format!("the payload does not fit task `{task}`: {}", shorten(misfit.to_string())),
        };
        Outcome::dead(ReasonKind::BadMessage, words)
    }

    /// The decoded event, or the outcome of a message that does not decode.
    ///
    /// # Errors
    /// The outcome of a bad message: a dead letter with the reason.
    #[doc(hidden)]
    pub fn event<E: EventBody>(&self) -> Result<E, Outcome> {
        let message = || self.context.message(self.payload.clone());
        E::read(&self.payload, &self.context.format, &message).map_err(|words| {
            let (subscriber, words) = (self.context.task(), shorten(words));
            Outcome::dead(
                ReasonKind::BadMessage,
                format!("subscriber `{subscriber}` cannot read it: {words}"),
            )
        })
    }

    /// The value of a by-reference parameter of type `&T`.
    ///
    /// # Panics
    /// If there is no such state, which the worker has checked at its start.
    #[doc(hidden)]
    pub fn arg<T: ?Sized + 'static>(&self) -> &T {
        let context: &dyn Any = &self.context;
        if let Some(context) = context.downcast_ref::<Arc<T>>() {
            return context;
        }
        self.context.environment.state.get::<T>().expect("state was checked when the worker started")
    }
}

/// serde's message without the middle of a long value that it quotes. Its end says where and what went wrong.
fn shorten(words: String) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 200;
    if words.len() <= HEAD + TAIL {
        return words;
    }
    let head = (0..=HEAD).rfind(|at| words.is_char_boundary(*at)).unwrap_or(0);
    let tail =
        (words.len() - TAIL..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(words.len());
    format!("{}…{}", &words[..head], &words[tail..])
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the payload, which may hold secrets.
        f.debug_struct("Call").field("context", &self.context).finish_non_exhaustive()
    }
}

/// Runs a function without `async` on the blocking pool. The call keeps the worker's slot until the function returns, even
/// after a timeout: such a function cannot be stopped.
#[doc(hidden)]
pub fn run_blocking(call: Call, function: fn(Call) -> Outcome) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        // The job's span, so that the function's log lines are part of it.
        let span = tracing::Span::current();
        let mut running = AbortOnDrop(tokio::task::spawn_blocking(move || {
            let context = &call.context;
            let _entered = context.environment.blocking.enter(context.task, context.id.clone());
            span.in_scope(|| function(call))
        }));
        match (&mut running.0).await {
            Ok(outcome) => outcome,
            // `execute` catches it, like the panic of any handler.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime shuts down before the function began; this future ends with it, and the delivery is released.
            Err(_) => std::future::pending().await,
        }
    })
}

/// Aborts a function that still waits for a thread when its attempt has been settled.
struct AbortOnDrop(JoinHandle<Outcome>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
