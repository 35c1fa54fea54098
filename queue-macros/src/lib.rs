//! Leveret's macros. Programs use them through the facade crate [`leveret`](https://docs.rs/leveret), which re-exports
//! [`macro@task`], [`macro@subscriber`] and [`Event`](derive@Event).
//!
//! A macro's way through this crate: `attr` (as written) → `model` (as meant) → `check` → `expand`, with `fallback`
//! beside an error.

mod attr;
mod check;
mod duration;
mod errors;
mod event;
mod expand;
mod fallback;
mod function;
mod model;
mod parameter;
mod schema;
mod subscriber;
mod suggest;
mod task;
mod value;

use proc_macro::TokenStream;

#[doc = include_str!("task.md")]
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, function: TokenStream) -> TokenStream {
    task::task(attr::Kind::Task, attribute.into(), function.into()).into()
}

/// Makes a function a subscriber: its queue gets a copy of every event that its bindings ask for, and a worker runs
/// the function for each, with retries, timeout and dead letters as a task's.
///
/// Exactly one parameter is taken by value: the event, or a `RawMessage`. Parameters taken by reference are the
/// worker's, as in a task.
///
/// | option | meaning |
/// |---|---|
/// | `queue` | the queue that keeps this service's copies. Two processes of one service share it; two services have two |
/// | `exchange`, `kind` | where the events come from; default what the event's type says. A `RawMessage` says neither |
/// | `exchange = ""` | a `RawMessage` that others send to the queue by its name, by AMQP's default exchange. Without kind and bindings |
/// | `binding = "order.europe.*"` | which routing keys; may be given several times. A pattern has at most two `#`; RabbitMQ refuses more from 4.3.5 on. Default on a topic exchange: `#`, all; none with `declare = "passive"`, whose queue gets what others have bound |
/// | `binding(region = "europe")` | which headers, all of them; `binding(any, ..)`: one of them |
/// | `bindings = "exact"` | takes bindings out that the code no longer has; on RabbitMQ by its management API, and refused without |
/// | `prefetch` | default 10, or `concurrency` where that is more |
///
/// A binding that is taken out of the code stays on a queue that exists, and its events go on coming: AMQP cannot list
/// bindings, so nobody knows of it. Where `bindings = "exact"` cannot be had, take it out once: on the queue's page of
/// RabbitMQ's management, with `rabbitmqadmin`, or in code by
/// `client.declare(&Topology::new().unbind(BindingDecl::new("order.events", "order.events.email", "order.europe.*")))`.
///
/// All others are those of a task: `name`, `retries`, `backoff`, `timeout`, `permanent`, `dlx`, `dead_letter_queue`,
/// `dead_letter_key`, `dead_letter_ttl`, `queue_type`, `declare`, `ttl`, `max_length`, `overflow`, `max_priority`,
/// `concurrency`, `crash_limit`, `crate`.
#[proc_macro_attribute]
pub fn subscriber(attribute: TokenStream, function: TokenStream) -> TokenStream {
    task::task(attr::Kind::Subscriber, attribute.into(), function.into()).into()
}

/// Makes a struct an event: `#[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]`.
///
/// | option | meaning |
/// |---|---|
/// | `exchange` | the exchange that it is published to; declared before its first use |
/// | `kind` | `"fanout"`, `"topic"`, `"direct"` or `"headers"` |
/// | `key` | the routing key, filled from fields in braces (topic and direct) |
/// | `headers(..)` | the fields that are sent as headers, by which it is routed (headers) |
/// | `name` | the name on the wire; default the struct's |
/// | `format` | how it is written: `"json"` (the default), `"msgpack"` or `"cbor"`. Subscribers read all of them |
/// | `crate` | the path of `leveret` where it has another name |
///
/// The struct must be `Serialize` and `Deserialize`: the body is the event as plain JSON, unless `format` says
/// otherwise.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    event::event(input.into()).into()
}
