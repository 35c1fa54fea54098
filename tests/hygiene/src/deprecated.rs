//! A deprecated task warns whoever enqueues it, and not the crate that has it. The same for events and subscribers, and
//! for whatever else they allow.

use jobs::{Event, subscriber, task};

/// An old way to do it.
#[task(crate = jobs, queue = "deprecated", debug = false)]
#[deprecated = "use the new one"]
pub(crate) async fn old(number: u32) {
    core::future::ready(()).await;
    assert!(number > 0);
}

/// The same, shown in full.
#[deprecated(note = "use the new one")]
#[task(crate = jobs, queue = "deprecated")]
pub(crate) fn older(number: u32) {
    assert!(number > 0);
}

/// A type on its way out.
#[deprecated(note = "use another")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Legacy(String);

/// Allows for itself what it knows.
#[task(crate = jobs, queue = "deprecated")]
#[allow(deprecated, reason = "the state has not moved yet")]
pub(crate) fn knows(number: u32, state: &Legacy) {
    assert_eq!(*state, Legacy(String::new()));
    assert!(number > 0);
}

/// An event on its way out.
#[deprecated(note = "subscribe to another")]
#[derive(Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, Event)]
#[serde(crate = "jobs::__private::serde")]
#[event(crate = jobs, exchange = "deprecated.old", kind = "topic", key = "old.{number}")]
pub(crate) struct OldEvent {
    /// Its number.
    number: u32,
}

/// Still takes it.
#[subscriber(crate = jobs, queue = "deprecated.old", binding = "old.*")]
#[allow(deprecated, reason = "it is still published")]
pub(crate) async fn on_old(event: OldEvent) {
    core::future::ready(()).await;
    assert!(event.number > 0);
}

/// An event of which only a header is on its way out.
#[derive(Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, Event)]
#[serde(crate = "jobs::__private::serde")]
#[event(crate = jobs, exchange = "deprecated.partly", kind = "headers", headers(region))]
pub(crate) struct PartlyOld {
    /// Where.
    #[deprecated(note = "read `place`")]
    region: String,
    /// Where.
    place: u32,
}

/// Reads what it can.
#[subscriber(crate = jobs, queue = "deprecated.partly", binding(region = "europe"))]
#[expect(deprecated, reason = "it reads both")]
pub(crate) async fn on_partly_old(event: PartlyOld) {
    core::future::ready(()).await;
    assert!(!event.region.is_empty() || event.place > 0);
}

/// An event whose fields are all named as the wire has them.
#[derive(Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, Event)]
#[serde(crate = "jobs::__private::serde")]
#[event(crate = jobs, exchange = "deprecated.camel", kind = "fanout")]
#[allow(non_snake_case, reason = "the wire has it so")]
pub(crate) struct CamelCased {
    /// Whose.
    userId: u32,
}

/// Reads it.
#[subscriber(crate = jobs, queue = "deprecated.camel")]
pub(crate) async fn on_camel_cased(event: CamelCased) {
    core::future::ready(()).await;
    assert!(event.userId > 0);
}

/// Reads it no longer than it must.
#[deprecated(note = "take the other")]
#[subscriber(crate = jobs, queue = "deprecated.camel.old")]
pub(crate) async fn on_camel_cased_of_old(event: CamelCased) {
    core::future::ready(()).await;
    assert!(event.userId > 0);
}
