//! The meaning of attribute and function together: a task with a name, a payload and its parameters.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt as _;
use syn::{ReturnType, Type};

use crate::attr::{Attribute, Kind};
use crate::errors::Errors;
use crate::function::Function;
use crate::parameter::{self, Parameter};
use crate::value;

/// A task.
pub(crate) struct Model {
    pub(crate) attribute: Attribute,
    pub(crate) function: Function,
    /// The path of the hidden module that generated code names.
    pub(crate) private: TokenStream,
    /// The name on the wire.
    pub(crate) name: String,
    /// The payload's type.
    pub(crate) payload: Ident,
    /// In the function's order.
    pub(crate) parameters: Vec<Parameter>,
    /// The return type as written, `()` where there is none.
    pub(crate) output: TokenStream,
}

impl Model {
    /// Finds the meaning, and notes what has none. Empty where not even the payload's type can be emitted
    /// beside the mistakes.
    pub(crate) fn new(attribute: Attribute, function: Function, errors: &mut Errors) -> Option<Self> {
        let signature = &function.signature;
        if let syn::Safety::Unsafe(token) = &signature.safety {
            let words = match attribute.kind_of {
                Kind::Task => "a task cannot be `unsafe`: whoever enqueues it could not keep its promises",
                Kind::Subscriber => {
                    "a subscriber cannot be `unsafe`: whoever publishes could not keep its promises"
                }
            };
            errors.on(token, words);
        }
        let generics = &signature.generics;
        if !generics.params.is_empty() {
            let words = match attribute.kind_of {
                Kind::Task => "a task cannot be generic: one name on the wire is one payload type",
                Kind::Subscriber => "a subscriber cannot be generic: it is one queue's",
            };
            errors.on(&generics.params, words);
        }
        let parameters = parameter::read_all(&signature.inputs, errors);
        if attribute.kind_of == Kind::Subscriber {
            check_event(&parameters, &function, errors);
        }
        let name = match &attribute.name {
            Some(name) => name.value.clone(),
            None => own_name(&function, errors),
        };
        let payload = payload_name(&attribute, &function, errors);
        let output = output(&attribute, &function, errors);
        let krate = match &attribute.krate {
            Some(path) => path.value.to_token_stream(),
            None => quote!(::leveret),
        };
        // A struct cannot stand in an `impl` block, and one whose fields name the function's generics has none.
        if function.is_method() || !generics.params.is_empty() {
            return None;
        }
        Some(Self {
            private: quote!(#krate::__private),
            name,
            payload: payload?,
            parameters,
            output,
            attribute,
            function,
        })
    }

    /// True if the function runs on the blocking pool.
    pub(crate) fn is_blocking(&self) -> bool {
        self.function.signature.asyncness.is_none()
    }
}

/// A subscriber takes the whole body, and so exactly one parameter by value.
fn check_event(parameters: &[Parameter], function: &Function, errors: &mut Errors) {
    let mut events = parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Field(field) => Some(field),
        Parameter::Injected(_) => None,
    });
    match (events.next(), events.next()) {
        (Some(_), None) => {}
        // A parameter that could not be read has been reported.
        (None, _) if !errors.is_empty() => {}
        (None, _) => errors.on(
            function.ident(),
            "a subscriber takes the event by value, as in `event: OrderPlaced`: add that parameter",
        ),
        (_, Some(second)) => errors.on(
            &second.ident,
            "a subscriber takes one event, the whole body: a second parameter by value has nothing to hold (take \
             `&T` for the worker's state)",
        ),
    }
}

/// The name of a function that is not given another.
fn own_name(function: &Function, errors: &mut Errors) -> String {
    let name = function.ident().unraw().to_string();
    if let Err(words) = value::check_length(&name) {
        errors.on(function.ident(), format!("{words}, or give the task another name with `name = \"…\"`"));
    }
    name
}

/// `send_email` gives `SendEmail`, unless `payload = Name` says otherwise.
fn payload_name(attribute: &Attribute, function: &Function, errors: &mut Errors) -> Option<Ident> {
    if let Some(payload) = &attribute.payload {
        let name = payload.value.unraw().to_string();
        if PRELUDE.contains(&&*name) {
            errors.on(
                &payload.value,
                format!(
                    "a payload named `{name}` would hide the `{name}` that every Rust program knows: take \
                 another name"
                ),
            );
            return None;
        }
        return Some(payload.value.clone());
    }
    let ident = function.ident();
    let name = camel_case(&ident.unraw().to_string());
    if attribute.kind_of == Kind::Subscriber {
        if !name.starts_with(|c: char| c.is_alphabetic()) || PRELUDE.contains(&&*name) {
            errors.on(ident, "no type can be named after this function, to name it to a worker: rename it");
            return None;
        }
        return Some(format_ident!("{name}", span = ident.span()));
    }
    if !name.starts_with(|c: char| c.is_alphabetic()) {
        errors.on(ident, "no payload type can be named after this function: name it with `payload = …`");
        return None;
    }
    if PRELUDE.contains(&&*name) {
        errors.on(
            ident,
            format!(
                "the payload would be named `{name}` and hide the `{name}` that every Rust program knows: \
             name it with `payload = …`"
            ),
        );
        return None;
    }
    Some(format_ident!("{name}", span = ident.span()))
}

fn camel_case(name: &str) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    };
    name.split('_').map(capitalised).collect()
}

/// The return type. Whether it is one a task may have is decided by a trait, so that aliases work. Only what is none by its
/// very name is refused here: the compiler would report it once for each place that names it.
fn output(attribute: &Attribute, function: &Function, errors: &mut Errors) -> TokenStream {
    match &function.signature.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, output) => {
            if let Some(token) = parameter::find_impl(&output.to_token_stream()) {
                errors.on(token, "name the type: what a task returns is read back by whoever called it");
            } else if is_plain_value(output) {
                let kind = attribute.kind_of.as_str();
                let found = parameter::spelled(&output.to_token_stream());
                let remedy = match attribute.kind_of {
                    Kind::Task => {
                        format!("write `Result<{found}, E>` for the reply of an RPC, or `TaskResult`")
                    }
                    Kind::Subscriber => "write `TaskResult`, or nothing".to_owned(),
                };
                errors.on(output, format!("a {kind} returns `()` or a `Result`, not `{found}`: {remedy}"));
            }
            output.to_token_stream()
        }
    }
}

/// True if a type is one of the language or the prelude, and not of the user's program.
fn is_plain_value(ty: &Type) -> bool {
    match ty {
        Type::Tuple(tuple) => !tuple.elems.is_empty(),
        Type::Array(_) | Type::Reference(_) => true,
        Type::Path(path) if path.qself.is_none() && path.path.segments.len() == 1 => {
            PLAIN_VALUES.contains(&&*path.path.segments[0].ident.to_string())
        }
        _ => false,
    }
}

const PLAIN_VALUES: &[&str] = &[
    "Option", "String", "Vec", "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize",
    "u128", "u16", "u32", "u64", "u8", "usize",
];

/// The types and traits that are in scope everywhere. A struct of such a name changes what the module around it
/// means.
const PRELUDE: &[&str] = &[
    "AsMut",
    "AsRef",
    "AsyncFn",
    "AsyncFnMut",
    "AsyncFnOnce",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "DoubleEndedIterator",
    "Drop",
    "Eq",
    "Err",
    "ExactSizeIterator",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "FromIterator",
    "Future",
    "Into",
    "IntoFuture",
    "IntoIterator",
    "Iterator",
    "None",
    "Ok",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Self",
    "Send",
    "Sized",
    "Some",
    "String",
    "Sync",
    "ToOwned",
    "ToString",
    "TryFrom",
    "TryInto",
    "Unpin",
    "Vec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_named_after_the_function() {
        assert_eq!(camel_case("send_email"), "SendEmail");
        assert_eq!(camel_case("_retry__2"), "Retry2");
        assert_eq!(camel_case("SendEmail"), "SendEmail");
        assert_eq!(camel_case("élan_vital"), "ÉlanVital");
    }
}
