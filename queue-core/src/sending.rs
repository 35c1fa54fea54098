//! The state behind the futures that `enqueue`, `publish` and `call` return: options first, then the sending. They
//! implement `Future` and not only `IntoFuture`, so that `tokio::spawn` takes them, and the compiler asks for the `.await`
//! that a `?` lacks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A message with its options, or the sending of it.
pub(crate) enum Sending<M, T> {
    /// Not polled yet: options can still be set.
    Prepared(M),
    /// On its way.
    Begun(Pin<Box<dyn Future<Output = T> + Send>>),
    /// Neither: while it goes from the one to the other.
    Between,
}

impl<M, T> Sending<M, T> {
    /// The message, for an option to be set.
    ///
    /// # Panics
    /// If it has been polled.
    #[track_caller]
    pub(crate) fn message(&mut self) -> &mut M {
        match self {
            Self::Prepared(message) => message,
            _ => panic!("options are set before the first poll: this one is on its way"),
        }
    }

    /// The message.
    ///
    /// # Panics
    /// If it has been polled.
    #[cfg(feature = "sqlite-system")]
    #[track_caller]
    pub(crate) fn into_message(self) -> M {
        match self {
            Self::Prepared(message) => message,
            _ => panic!("this one is on its way already: it was polled"),
        }
    }

    /// Sends the message by what `begin` makes of it, when first polled.
    pub(crate) fn poll<F>(&mut self, cx: &mut Context<'_>, begin: impl FnOnce(M) -> F) -> Poll<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if let Self::Begun(sending) = self {
            return sending.as_mut().poll(cx);
        }
        let Self::Prepared(message) = std::mem::replace(self, Self::Between) else {
            unreachable!("it is between the two only here")
        };
        let mut sending = Box::pin(begin(message));
        let poll = sending.as_mut().poll(cx);
        *self = Self::Begun(sending);
        poll
    }
}

impl<M: fmt::Debug, T> fmt::Debug for Sending<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared(message) => message.fmt(f),
            _ => f.write_str("(on its way)"),
        }
    }
}
