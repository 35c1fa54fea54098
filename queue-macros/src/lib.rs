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

#[doc = include_str!("subscriber.md")]
#[proc_macro_attribute]
pub fn subscriber(attribute: TokenStream, function: TokenStream) -> TokenStream {
    task::task(attr::Kind::Subscriber, attribute.into(), function.into()).into()
}

#[doc = include_str!("event.md")]
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    event::event(input.into()).into()
}
