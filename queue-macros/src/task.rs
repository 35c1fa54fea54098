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

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn field_is_checked_before_serde_derives_for_it_unless_serde_is_told_how() {
        let expanded = |item: TokenStream| task(Kind::Task, quote!(queue = "q"), item).to_string();
        let plain = expanded(quote! { async fn job(pool: Pool) {} });
        let told = expanded(quote! { async fn job(#[serde(skip)] pool: Pool) {} });

        let check = plain.find("check_field :: < Pool >").expect("a check");
        assert!(check < plain.find("derive").unwrap(), "{plain}");
        assert!(!told.contains("check_field"), "{told}");
    }
}
