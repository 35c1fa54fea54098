//! Events and subscribers where the usual names mean something else, or nothing.
#![no_implicit_prelude]

#[allow(unused_imports, clippy::wildcard_imports, reason = "they stand in the way, which is the test")]
use crate::shadowed::usual::*;

/// An event with everything.
#[derive(
    ::core::fmt::Debug,
    ::jobs::__private::serde::Serialize,
    ::jobs::__private::serde::Deserialize,
    ::jobs::Event,
)]
#[serde(crate = "::jobs::__private::serde")]
#[event(crate = ::jobs, exchange = "hygiene.topic", kind = "topic", key = "made.{r#type}.{count}", format = "msgpack")]
pub(crate) struct Made {
    /// A word.
    r#type: ::std::string::String,
    /// A number.
    #[serde(default)]
    count: u32,
}

/// An event that is routed by its headers.
#[derive(
    ::core::fmt::Debug,
    ::jobs::__private::serde::Serialize,
    ::jobs::__private::serde::Deserialize,
    ::jobs::Event,
)]
#[serde(crate = "::jobs::__private::serde")]
#[event(crate = ::jobs, exchange = "hygiene.headers", kind = "headers", headers(r#type, count))]
pub(crate) struct Labelled {
    /// A word.
    r#type: ::std::string::String,
    /// A number.
    count: u32,
}

/// Takes an event.
#[::jobs::subscriber(crate = ::jobs, queue = "hygiene.made", binding = "made.*.#", dlx = none)]
async fn on_made(event: Made) -> ::core::result::Result<(), crate::shadowed::Failure> {
    ::core::mem::drop((event.r#type, event.count));
    ::core::future::ready(()).await;
    ::core::result::Result::Ok(())
}

/// Takes whatever has a label, on the blocking pool.
#[::jobs::subscriber(crate = ::jobs, queue = "hygiene.labelled", binding(any, r#type = "a", count = 1, bold = true))]
fn on_labelled(event: Labelled) {
    ::core::mem::drop((event.r#type, event.count));
}

/// Takes a message as it is.
#[::jobs::subscriber(crate = ::jobs, exchange = "amq.fanout", kind = "fanout", queue = "hygiene.raw")]
async fn on_anything(message: ::jobs::RawMessage) {
    ::core::mem::drop(message.body);
    ::core::future::ready(()).await;
}

/// Takes messages by keys that would be patterns of half words on a topic exchange.
#[::jobs::subscriber(
    crate = ::jobs, exchange = "amq.direct", kind = "direct", queue = "hygiene.direct", binding = "C#", binding = "a*.b"
)]
async fn on_literal_keys(message: ::jobs::RawMessage) {
    ::core::mem::drop(message.body);
    ::core::future::ready(()).await;
}

/// Takes messages that others send to the queue by its name.
#[::jobs::subscriber(crate = ::jobs, exchange = "", queue = "hygiene.plain")]
async fn on_plain(message: ::jobs::RawMessage) {
    ::core::mem::drop(message.body);
    ::core::future::ready(()).await;
}
