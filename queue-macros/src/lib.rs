//! Leveret's attribute. Programs use it as `leveret::task`.

mod attr;
mod check;
mod duration;
mod errors;
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
