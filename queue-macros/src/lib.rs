//! Leveret's attribute. Programs use it as `leveret::task`.

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
mod suggest;
mod task;
mod value;

use proc_macro::TokenStream;

/// Makes a function a task.
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, function: TokenStream) -> TokenStream {
    task::task(attribute.into(), function.into()).into()
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
/// | `crate` | the path of `leveret` where it has another name |
///
/// The struct must be `Serialize` and `Deserialize`: the body is the event as plain JSON.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    event::event(input.into()).into()
}
