//! Describes the messages of a program as an [AsyncAPI](https://www.asyncapi.com) 3.0 document, for people, and for generators
//! and portals that read it.
//!
//! `#[task]`, `#[derive(Event)]` and `#[subscriber]` register a [`Description`] of themselves. This module makes channels
//! (queues, exchanges), operations and messages with JSON Schemas of them. It needs no broker.

use std::any::TypeId;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::error::Result;
use crate::format::Format;
use crate::task::TaskOptions;
use crate::topology::{ExchangeKind, Namespace, QueueSpec};

mod document;
mod name;
pub(crate) mod shape;

/// The AsyncAPI 3.0 document of all tasks, events and subscribers that are compiled into this program, and of their
/// queues. `title` and `version` are the program's own, for the document's `info`.
///
/// ```standalone_crate
/// let mut document = leveret::asyncapi::document("Shop", env!("CARGO_PKG_VERSION"));
/// // A plain JSON value: print it, serve it, or add servers and a description first.
/// document["info"]["description"] = "Jobs and events of the shop".into();
/// println!("{document:#}");
/// # assert_eq!(document["asyncapi"], "3.0.0");
/// ```
///
/// - A channel is a queue (with the `x-arguments` with which another program must declare it), an exchange with its
///   routing key, a dead-letter queue, or the address of a call's reply.
/// - An operation enqueues or runs a task, publishes an event, or receives one by a subscriber. A program without the
///   feature `worker` runs nothing.
/// - A message has the JSON Schema of its payload. Types in a payload implement `schemars::JsonSchema`; a type that does not
///   may be anything, and a `$comment` names it.
///
/// Leveret's own exchanges have the names of the default namespace; see [`document_in`].
pub fn document(title: &str, version: &str) -> Value {
    document::build(title, version, &Namespace::default(), all())
}

/// Like [`document`], for a program whose clients have another [namespace](crate::client::ClientBuilder::namespace).
///
/// ```standalone_crate
/// # fn f() -> leveret::Result<()> {
/// let document = leveret::asyncapi::document_in("shop", "Shop", env!("CARGO_PKG_VERSION"))?;
/// println!("{document:#}");
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// # Errors
/// If the namespace cannot be part of an AMQP name.
pub fn document_in(namespace: &str, title: &str, version: &str) -> Result<Value> {
    let namespace = Namespace::new(namespace)?;
    Ok(document::build(title, version, &namespace, all()))
}

/// All descriptions that are compiled in, in the linker's order, which changes from build to build. `document` sorts them, so
/// that the document can be kept under version control.
fn all() -> impl Iterator<Item = &'static Description> {
    inventory::iter::<Description>.into_iter()
}

/// One task, event or subscriber. Generated code makes it.
#[doc(hidden)]
#[derive(Debug)]
pub enum Description {
    /// `#[task]`
    Task(TaskDescription),
    /// `#[derive(Event)]`
    Event(EventDescription),
    /// `#[subscriber]`
    Subscriber(SubscriberDescription),
}

inventory::collect!(Description);

/// Makes a schema, and notes the schemas that it refers to in the generator.
#[doc(hidden)]
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

/// A task.
#[doc(hidden)]
#[derive(Debug)]
pub struct TaskDescription {
    /// Its name on the wire.
    pub name: &'static str,
    /// The function's documentation.
    pub doc: &'static str,
    /// Its queue.
    pub queue: fn() -> &'static QueueSpec,
    /// Its options.
    pub options: fn() -> &'static TaskOptions,
    /// The payload.
    pub payload: Describe,
    /// The type that a call returns.
    pub reply: Describe,
    /// True if this program could run it.
    pub is_run: bool,
}

/// An event.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventDescription {
    /// Its name on the wire.
    pub name: &'static str,
    /// Its type, by which its subscribers refer to it.
    pub id: fn() -> TypeId,
    /// The struct's documentation.
    pub doc: &'static str,
    /// Where it is published to.
    pub exchange: &'static str,
    /// How that routes.
    pub kind: ExchangeKind,
    /// How it is written.
    pub format: Format,
    /// The routing key, with fields in braces.
    pub key: &'static str,
    /// The fields that are headers.
    pub headers: &'static [&'static str],
    /// The body.
    pub payload: Describe,
}

/// A subscriber.
#[doc(hidden)]
#[derive(Debug)]
pub struct SubscriberDescription {
    /// Its name.
    pub name: &'static str,
    /// The function's documentation.
    pub doc: &'static str,
    /// Its queue.
    pub queue: fn() -> &'static QueueSpec,
    /// The type of its event.
    pub event: fn() -> TypeId,
}

#[cfg(test)]
mod tests;
