//! A checked model as code. Cannot fail. The code is thin: a struct, a few constants, calls into `__private`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{GenericArgument, LitStr, PathArguments, ReturnType, Type};

use crate::attr::{Attribute, Kind, Permanent, Written};
use crate::model::Model;
use crate::parameter::{Field, Parameter};
use crate::schema;
use crate::value::{Backoff, Declare, Dlx, OrNone, Overflow, QueueType};

/// The function, its payload, and what makes it a task.
pub(crate) fn expand(model: &Model) -> TokenStream {
    let function = model.function.emit();
    let checks = checks(model);
    let payload = payload(model);
    let task = task(model);
    let handler = handler(model);
    let description = description(model);
    quote!(#function #checks #payload #task #handler #description)
}

/// Checks that each by-value parameter can be a field, in words of our own. Before the payload, since the compiler reports in
/// the order of the code, and what serde's derives say of a worker's state leads away from `&T`.
fn checks(model: &Model) -> TokenStream {
    let Model { function, private, .. } = model;
    let conditions = function.conditions();
    let allowances = allowances(model);
    let check = |field: &Field| {
        let Field { ty, .. } = field;
        let field_allowances = &field.allowances;
        let check = quote_spanned!(ty.span()=> #private::check_field::<#ty>());
        quote! {
            #(#conditions)*
            #allowances
            #(#field_allowances)*
            const _: () = #check;
        }
    };
    // Where serde is told how to read a field (`with`, `skip`), the type itself may be none of serde's.
    let plain = |field: &&Field| !field.attributes.iter().any(|attribute| attribute.path().is_ident("serde"));
    fields(model).filter(plain).map(check).collect()
}

/// The struct that carries the by-value parameters.
pub(crate) fn payload(model: &Model) -> TokenStream {
    let Model { function, private, payload, .. } = model;
    let conditions = function.conditions();
    let deprecated = function.attributes("deprecated");
    let allowances = function.allowances();
    // The compiler looks for `non_snake_case` of a field on the struct.
    let field_allowances = fields(model).flat_map(|field| &field.allowances);
    let visibility = &function.visibility;
    let name = function.ident().to_string();
    let doc =
        format!("The payload of task `{name}`. Made by `#[task]` from the function's by-value parameters.");
    let serde = format!("{private}::serde").replace(' ', "");
    let fields = fields(model).map(|field| {
        let Field { attributes, ident, ty, .. } = field;
        let doc = (!field.is_documented).then(|| {
            let doc = format!("The task's parameter `{ident}`.");
            quote!(#[doc = #doc])
        });
        quote!(#(#attributes)* #doc #visibility #ident: #ty)
    });
    let shows_fields = model.attribute.debug.as_ref().is_none_or(|debug| debug.value);
    let derived_debug = shows_fields.then(|| quote!(::core::fmt::Debug,));
    let opaque_debug = (!shows_fields).then(|| {
        let name = payload.unraw().to_string();
        let allowances = self::allowances(model);
        quote! {
            #(#conditions)*
            #allowances
            #[automatically_derived]
            impl ::core::fmt::Debug for #payload {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_struct(#name).finish_non_exhaustive()
                }
            }
        }
    });
    // Spanned, so that a clash of names points at the function's.
    let item = quote_spanned!(payload.span()=> #visibility struct #payload);
    quote! {
        #(#conditions)*
        #(#deprecated)*
        #allowances
        #(#field_allowances)*
        #[doc = #doc]
        #[derive(
            ::core::clone::Clone,
            #derived_debug
            #private::serde::Serialize,
            #private::serde::Deserialize,
        )]
        #[serde(crate = #serde)]
        #item { #(#fields,)* }
        #opaque_debug
    }
}

fn fields(model: &Model) -> impl Iterator<Item = &Field> {
    model.parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Field(field) => Some(field),
        Parameter::Injected(_) => None,
    })
}

/// The impl of `Task`, for producers.
fn task(model: &Model) -> TokenStream {
    let Model { function, private, name, payload, attribute, .. } = model;
    let conditions = function.conditions();
    let allowances = allowances(model);
    let queue = queue(attribute, private);
    let options = match changed_options(attribute, private) {
        Some(options) => quote! {
            static OPTIONS: ::std::sync::LazyLock<#private::TaskOptions> =
                ::std::sync::LazyLock::new(|| #options);
            &OPTIONS
        },
        // A static and a closure less to compile, for most tasks.
        None => quote!(#private::default_options()),
    };
    let reply = reply(model);
    quote! {
        #(#conditions)*
        #allowances
        #[automatically_derived]
        impl #private::Task for #payload {
            const NAME: &'static ::core::primitive::str = #name;

            type Output = #reply;

            fn queue() -> &'static #private::QueueSpec {
                static QUEUE: ::std::sync::LazyLock<#private::QueueSpec> =
                    ::std::sync::LazyLock::new(|| #queue);
                &QUEUE
            }

            fn options() -> &'static #private::TaskOptions {
                #options
            }
        }
    }
}

/// The type of the task's reply.
///
/// The trait knows it of any return type. But the compiler refuses a private type anywhere in a public
/// impl, and errors often are private: so where `T` and `E` are both in sight only `T` is written, and
/// `__private::outcome` has it checked against the trait.
fn reply(model: &Model) -> TokenStream {
    let Model { function, private, output, .. } = model;
    if let ReturnType::Type(_, ty) = &function.signature.output
        && let Type::Path(path) = &**ty
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
        && let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let [GenericArgument::Type(reply), GenericArgument::Type(_)] =
            arguments.args.iter().collect::<Vec<_>>()[..]
    {
        return reply.to_token_stream();
    }
    // Spanned, so that a return type which is none of a task's is reported where it stands.
    quote_spanned!(output.span()=> <#output as #private::IntoOutcome>::Output)
}

/// The queue as attribute and defaults describe it: each option that was written is one call.
pub(crate) fn queue(attribute: &Attribute, private: &TokenStream) -> TokenStream {
    let mut spec = TokenStream::new();
    let mut set = |method: &str, argument: TokenStream| {
        let method = Ident::new(method, Span::mixed_site());
        spec.extend(quote!(.#method(#argument)));
    };
    match &attribute.dlx {
        Some(Written { value: Dlx::None, .. }) => set("no_dlx", TokenStream::new()),
        Some(Written { value: Dlx::Some(exchange), .. }) => set("dlx", exchange.to_token_stream()),
        None => {}
    }
    let literal = |value: &dyn ToTokens| value.to_token_stream();
    for (method, argument) in [
        ("dead_letter_queue", attribute.dead_letter_queue.as_ref().map(|option| literal(&option.value))),
        ("dead_letter_key", attribute.dead_letter_key.as_ref().map(|option| literal(&option.value))),
        ("dead_letter_ttl", attribute.dead_letter_ttl.as_ref().map(|option| millis(option.value.into()))),
        ("queue_type", attribute.queue_type.as_ref().map(|option| queue_type(option.value, private))),
        ("declare", attribute.declare.as_ref().map(|option| declare(option.value, private))),
        ("ttl", attribute.ttl.as_ref().map(|option| millis(option.value.into()))),
        ("max_length", attribute.max_length.as_ref().map(|option| literal(&option.value))),
        ("overflow", attribute.overflow.as_ref().map(|option| overflow(option.value, private))),
        ("max_priority", attribute.max_priority.as_ref().map(|option| literal(&option.value))),
        ("concurrency", attribute.concurrency.as_ref().map(|option| literal(&option.value))),
        ("prefetch", attribute.prefetch.as_ref().map(|option| literal(&option.value))),
        ("crash_limit", attribute.crash_limit.as_ref().map(|option| literal(&option.value))),
    ] {
        if let Some(argument) = argument {
            set(method, argument);
        }
    }
    let name = attribute.queue.as_ref().map(|queue| &queue.value);
    quote!(#private::QueueSpec::new(#name) #spec)
}

/// How jobs are run: the defaults, and each option that was written.
pub(crate) fn options(attribute: &Attribute, private: &TokenStream) -> TokenStream {
    changed_options(attribute, private)
        .unwrap_or_else(|| quote!(<#private::TaskOptions as ::core::default::Default>::default()))
}

/// The options that were written, over the defaults; `None` if none was.
fn changed_options(attribute: &Attribute, private: &TokenStream) -> Option<TokenStream> {
    let options = Ident::new("__options", Span::mixed_site());
    let mut changes = TokenStream::new();
    if let Some(Written { value: retries, .. }) = &attribute.retries {
        changes.extend(quote!(#options.retry.retries = #retries;));
    }
    if let Some(Written { value, .. }) = &attribute.backoff {
        let backoff = backoff(value, private);
        changes.extend(quote!(#options.retry.backoff = #backoff;));
    }
    match &attribute.timeout {
        Some(Written { value: OrNone::None, .. }) => {
            changes.extend(quote!(#options.timeout = ::core::option::Option::None;));
        }
        Some(Written { value: OrNone::Some(timeout), .. }) => {
            let timeout = millis(*timeout);
            changes.extend(quote!(#options.timeout = ::core::option::Option::Some(#timeout);));
        }
        None => {}
    }
    if let Some(Written { value: priority, .. }) = &attribute.priority {
        changes.extend(quote!(#options.priority = ::core::option::Option::Some(#priority);));
    }
    if attribute.default.is_some() {
        changes.extend(quote!(#options.is_default = true;));
    }
    if let Some(Written { value: aliases, .. }) = &attribute.aliases {
        changes.extend(quote!(#options.aliases = &[#(#aliases),*];));
    }
    if let Some(Written { value: replies, .. }) = &attribute.reply {
        changes.extend(quote!(#options.replies = #replies;));
    }
    if let Some(Written { value: format, .. }) = &attribute.format {
        let format = format.expand(private);
        changes.extend(quote!(#options.format = #format;));
    }
    if let Some(Written { value: version, .. }) = &attribute.version {
        changes.extend(quote!(#options.version = #version;));
    }
    let defaults = quote!(<#private::TaskOptions as ::core::default::Default>::default());
    (!changes.is_empty()).then(|| quote!({ let mut #options = #defaults; #changes #options }))
}

/// The description of the task, in a program with the feature `schema`.
fn description(model: &Model) -> TokenStream {
    let Model { function, private, payload, .. } = model;
    let conditions = function.conditions();
    let allowances = allowances(model);
    let name = payload.unraw().to_string();
    let doc = schema::doc(&function.attributes);
    let fields = fields(model).map(|Field { attributes, ident, ty, .. }| schema::Field {
        attributes,
        ident,
        ty: ty.clone(),
    });
    let shape = schema::shape(private, &name, &[], fields);
    let field_allowances = self::fields(model).flat_map(|field| &field.allowances);
    quote! {
        #(#conditions)*
        #private::described! {
            #allowances
            #(#field_allowances)*
            const _: () = {
                #shape

                fn __payload(
                    __generator: &mut #private::schemars::SchemaGenerator,
                ) -> #private::schemars::Schema {
                    <__Shape as #private::schemars::JsonSchema>::json_schema(__generator)
                }

                fn __reply(
                    __generator: &mut #private::schemars::SchemaGenerator,
                ) -> #private::schemars::Schema {
                    #private::describe!(<#payload as #private::Task>::Output, __generator)
                }

                #private::inventory::submit! {
                    #private::Description::Task(#private::TaskDescription {
                        name: <#payload as #private::Task>::NAME,
                        doc: #doc,
                        queue: <#payload as #private::Task>::queue,
                        options: <#payload as #private::Task>::options,
                        payload: __payload,
                        reply: __reply,
                        is_run: #private::HAS_WORKER,
                    })
                }
            };
        }
    }
}

/// The registration for workers, which is empty where the program has none.
fn handler(model: &Model) -> TokenStream {
    let Model { function, private, payload, .. } = model;
    let conditions = function.conditions();
    let allowances = allowances(model);
    let ident = function.ident();
    let path = LitStr::new(&format!("::{ident}"), ident.span());
    let call = Ident::new("__call", Span::mixed_site());
    let run = run(model, &call, &reading(model, &call));
    let needs = needs(model);
    let upcast = model.attribute.upcast.as_ref().map(|upcast| {
        let path = &upcast.value;
        quote!(, #path)
    });
    quote! {
        #(#conditions)*
        #private::register! {
            #allowances
            #ident #upcast; #payload =>
            const _: () = {
                fn __run(#call: #private::Call) -> #private::BoxFuture<'static, #private::Outcome> {
                    #run
                }

                fn __needs() -> ::std::vec::Vec<#private::Need> {
                    ::std::vec![#(#needs),*]
                }

                const __REGISTRATION: #private::Registration = #private::Registration {
                    name: <#payload as #private::Task>::NAME,
                    path: ::core::concat!(::core::module_path!(), #path),
                    queue: <#payload as #private::Task>::queue,
                    options: <#payload as #private::Task>::options,
                    run: __run,
                    needs: __needs,
                    is_subscriber: false,
                };

                #[automatically_derived]
                impl #private::Runnable for #payload {
                    fn registration() -> #private::Registration {
                        __REGISTRATION
                    }
                }

                #private::inventory::submit! { __REGISTRATION }
            };
        }
    }
}

/// The types that the by-reference parameters need.
pub(crate) fn needs(model: &Model) -> Vec<TokenStream> {
    let private = &model.private;
    let need = |parameter: &Parameter| match parameter {
        Parameter::Field(_) => None,
        Parameter::Injected(ty) => Some(quote_spanned!(ty.span()=> #private::need::<#ty>())),
    };
    model.parameters.iter().filter_map(need).collect()
}

/// How a message becomes arguments.
pub(crate) struct Reading {
    /// Reads it, or returns the outcome of a bad message.
    pub(crate) statement: TokenStream,
    /// The value of a by-value parameter.
    pub(crate) argument: Box<dyn Fn(&Field) -> TokenStream>,
}

/// Reads a task's payload.
fn reading(model: &Model, call: &Ident) -> Reading {
    let Model { payload, attribute, .. } = model;
    let read = Ident::new("__payload", Span::mixed_site());
    let bad = Ident::new("__bad", Span::mixed_site());
    // Without by-value parameters the payload is read all the same: what is not an object is a bad message.
    let pattern = if fields(model).next().is_some() { quote!(#read) } else { quote!(_) };
    let payload_read = match (&attribute.version, &attribute.upcast) {
        (Some(Written { value: version, .. }), Some(Written { value: upcast, span, .. })) => {
            quote_spanned!(*span=> #call.upcast_payload(#version, #upcast))
        }
        _ => quote!(#call.payload()),
    };
    Reading {
        statement: quote! {
            let #pattern: #payload = match #payload_read {
                ::core::result::Result::Ok(#read) => #read,
                ::core::result::Result::Err(#bad) => return #bad,
            };
        },
        // By field and not by a pattern, which could hit a constant of the same name.
        argument: Box::new(move |Field { ident, .. }| quote!(#read.#ident)),
    }
}

/// The future of one call, from the message to the outcome.
pub(crate) fn run(model: &Model, call: &Ident, reading: &Reading) -> TokenStream {
    let private = &model.private;
    let ident = model.function.ident();
    let job = job(model, call, reading);
    if model.is_blocking() {
        quote_spanned!(ident.span()=> #private::run_blocking(#call, |#call| #job))
    } else {
        // Spanned, so that a future which is not `Send` is reported at the function.
        quote_spanned!(ident.span()=> ::std::boxed::Box::pin(async move #job))
    }
}

/// A block from a call to an outcome: reads the message, calls the function, reads its result.
fn job(model: &Model, call: &Ident, reading: &Reading) -> TokenStream {
    let Model { function, private, payload, parameters, output, attribute, .. } = model;
    let ident = function.ident();
    let result = Ident::new("__result", Span::mixed_site());
    let permanent = Ident::new("__is_permanent", Span::mixed_site());
    let Reading { statement, argument } = reading;
    let arguments = parameters.iter().map(|parameter| match parameter {
        Parameter::Field(field) => argument(field),
        Parameter::Injected(ty) => quote_spanned!(ty.span()=> #call.arg::<#ty>()),
    });
    let awaited = (!model.is_blocking()).then(|| quote!(.await));
    let is_permanent = match &attribute.permanent {
        Some(Written { value: Permanent { pattern, guard }, .. }) => {
            let guard = guard.as_ref().map(|guard| quote!(if #guard));
            quote!(::core::matches!(&#result, ::core::result::Result::Err(#pattern) #guard))
        }
        None => quote!(false),
    };
    let outcome = match attribute.kind_of {
        Kind::Task => {
            let reply = quote!(#call.reply_format());
            quote_spanned!(output.span()=> #private::outcome::<#payload, _>(#result, #permanent, #reply))
        }
        Kind::Subscriber => quote_spanned!(output.span()=> #private::event_outcome(#result, #permanent)),
    };
    quote!({
        #statement
        let #result = #ident(#(#arguments),*)#awaited;
        let #permanent = #is_permanent;
        #outcome
    })
}

/// Lints that generated code must not raise beside the function's own.
pub(crate) fn allowances(model: &Model) -> TokenStream {
    let mut allowances = model.function.allowances();
    if model.function.attributes("deprecated").next().is_some() {
        allowances.extend(quote!(#[allow(deprecated, reason = "what is deprecated still runs")]));
    }
    allowances
}

fn backoff(backoff: &Backoff, private: &TokenStream) -> TokenStream {
    match *backoff {
        Backoff::Exponential { base, max: None } => {
            let base = millis(base);
            quote!(#private::Backoff::exponential(#base))
        }
        Backoff::Exponential { base, max: Some(max) } => {
            let (base, cap) = (millis(base), millis(max));
            quote!(#private::Backoff::Exponential { base: #base, cap: #cap })
        }
        Backoff::Fixed(wait) => {
            let wait = millis(wait);
            quote!(#private::Backoff::Fixed(#wait))
        }
    }
}

fn queue_type(queue_type: QueueType, private: &TokenStream) -> TokenStream {
    match queue_type {
        QueueType::Quorum => quote!(#private::QueueType::Quorum),
        QueueType::Classic => quote!(#private::QueueType::Classic),
    }
}

fn declare(declare: Declare, private: &TokenStream) -> TokenStream {
    match declare {
        Declare::Active => quote!(#private::Declare::Active),
        Declare::Passive => quote!(#private::Declare::Passive),
    }
}

fn overflow(overflow: Overflow, private: &TokenStream) -> TokenStream {
    match overflow {
        Overflow::Reject => quote!(#private::Overflow::Reject),
        Overflow::DeadLetter => quote!(#private::Overflow::DeadLetter),
    }
}

fn millis(millis: u64) -> TokenStream {
    quote!(::core::time::Duration::from_millis(#millis))
}
