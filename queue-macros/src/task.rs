//! The way of one `#[task]` or `#[subscriber]`: `attr` and `function` → `check` → `model` →
//! `expand`, or `fallback` beside the mistakes.

use proc_macro2::TokenStream;
use syn::parse::{ParseStream, Parser as _};

use crate::attr::{Attribute, Kind};
use crate::errors::Errors;
use crate::function::Function;
use crate::model::Model;
use crate::{check, expand, fallback, subscriber};

/// Expands `#[task(attribute)] item` or `#[subscriber(attribute)] item`.
pub(crate) fn task(kind: Kind, attribute: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let parse = |input: ParseStream<'_>| Function::parse(kind, input);
    let Some(function) = errors.ok(parse.parse2(item.clone())) else {
        return beside(errors, item);
    };
    let attribute = Attribute::parse(kind, attribute, &mut errors);
    check::check(&attribute, &function.signature, &mut errors);
    let bare = function.emit();
    let Some(model) = Model::new(attribute, function, &mut errors) else {
        return beside(errors, bare);
    };
    match (errors.is_empty(), kind) {
        (true, Kind::Task) => expand::expand(&model),
        (true, Kind::Subscriber) => subscriber::expand(&model),
        (false, Kind::Task) => beside(errors, fallback::fallback(&model)),
        (false, Kind::Subscriber) => beside(errors, subscriber::fallback(&model)),
    }
}

fn beside(errors: Errors, mut code: TokenStream) -> TokenStream {
    code.extend(errors.into_compile_errors());
    code
}
