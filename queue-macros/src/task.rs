//! The way of one `#[task]`: `attr` and `function` → `check` → `model` →
//! `expand`, or `fallback` beside the mistakes.

use proc_macro2::TokenStream;

use crate::attr::Attribute;
use crate::errors::Errors;
use crate::function::Function;
use crate::model::Model;
use crate::{check, expand, fallback};

/// Expands `#[task(attribute)] item`.
pub(crate) fn task(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let Some(function) = errors.ok(syn::parse2::<Function>(item.clone())) else {
        return beside(errors, item);
    };
    let attribute = Attribute::parse(attribute, &mut errors);
    check::check(&attribute, &function.signature, &mut errors);
    let bare = function.emit();
    let Some(model) = Model::new(attribute, function, &mut errors) else {
        return beside(errors, bare);
    };
    if errors.is_empty() { expand::expand(&model) } else { beside(errors, fallback::fallback(&model)) }
}

fn beside(errors: Errors, mut code: TokenStream) -> TokenStream {
    code.extend(errors.into_compile_errors());
    code
}
