//! A checked subscriber as code: the function, a type that names it, and its registration. What only the event's type
//! knows (its exchange, and how that routes) is checked by a constant.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::LitStr;

use crate::attr::{Binding, Written};
use crate::expand;
use crate::model::Model;
use crate::parameter::{Field, Parameter};
use crate::schema;

/// The function, its name as a type, and what makes it a subscriber.
pub(crate) fn expand(model: &Model) -> TokenStream {
    let function = model.function.emit();
    let marker = marker(model);
    let checks = checks(model);
    let handler = handler(model);
    quote!(#function #marker #checks #handler)
}

/// The code that is emitted beside a mistake. It never runs.
pub(crate) fn fallback(model: &Model) -> TokenStream {
    let Model { function, private, payload, .. } = model;
    let conditions = function.conditions();
    let allowances = expand::allowances(model);
    let marker = marker(model);
    let function = function.emit();
    quote! {
        #function
        #marker
        #(#conditions)*
        #private::register_subscriber! {
            #allowances
            impl #private::Runnable for #payload {
                fn registration() -> #private::Registration {
                    ::core::unreachable!()
                }
            }
        }
    }
}

/// The type by which a worker is told to run this subscriber.
fn marker(model: &Model) -> TokenStream {
    let Model { function, payload, .. } = model;
    let conditions = function.conditions();
    let deprecated = function.attributes("deprecated");
    let allowances = expand::allowances(model);
    let visibility = &function.visibility;
    let name = function.ident().to_string();
    let doc =
        format!("Names subscriber `{name}`, as in `Worker::task::<{payload}>()`. Made by `#[subscriber]`.");
    let ident = function.ident();
    let item = quote_spanned!(payload.span()=> #visibility struct #payload;);
    quote! {
        #(#conditions)*
        #(#deprecated)*
        #allowances
        #[doc = #doc]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #item

        // So that neither is dead code where the program does not name them.
        #(#conditions)*
        #allowances
        const _: #payload = {
            let _ = #ident;
            #payload
        };
    }
}

/// Checks at compile time that the event's type agrees with the attribute.
fn checks(model: &Model) -> TokenStream {
    let Model { function, private, attribute, .. } = model;
    let conditions = function.conditions();
    let allowances = expand::allowances(model);
    let Some(event) = event(model) else { return TokenStream::new() };
    let ty = &event.ty;
    let exchange = option(attribute.exchange.as_ref().map(|exchange| {
        let name = &exchange.value;
        quote!(#name)
    }));
    let kind = option(attribute.exchange_kind.as_ref().map(|kind| kind.value.expand(private)));
    let by_headers =
        attribute.bindings.iter().map(|binding| matches!(binding.value, Binding::Headers { .. }));
    // At the option that the type may contradict.
    let span = attribute
        .bindings
        .first()
        .map(|binding| binding.span)
        .or(attribute.exchange.as_ref().map(|exchange| exchange.span))
        .or(attribute.exchange_kind.as_ref().map(|kind| kind.span))
        .unwrap_or_else(|| function.ident().span());
    let check =
        quote_spanned!(span=> #private::check_subscription::<#ty>(#exchange, #kind, &[#(#by_headers),*]));
    quote! {
        #(#conditions)*
        #allowances
        const _: () = #check;
    }
}

fn option(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// The parameter that takes the event.
fn event(model: &Model) -> Option<&Field> {
    model.parameters.iter().find_map(|parameter| match parameter {
        Parameter::Field(field) => Some(field),
        Parameter::Injected(_) => None,
    })
}

fn handler(model: &Model) -> TokenStream {
    let Model { function, private, name, payload, attribute, .. } = model;
    let conditions = function.conditions();
    let allowances = expand::allowances(model);
    let ident = function.ident();
    let path = LitStr::new(&format!("::{ident}"), ident.span());
    let call = Ident::new("__call", Span::mixed_site());
    let run = expand::run(model, &call, &read(model, &call));
    let needs = expand::needs(model);
    let queue = expand::queue(attribute, private);
    // A queue that others send to by its name takes nothing from an exchange.
    let subscribes = attribute.exchange.as_ref().is_none_or(|exchange| !exchange.value.is_empty());
    let subscription = subscribes.then(|| {
        let subscription = subscription(model);
        quote!(.subscribe(#subscription))
    });
    let prefetch = attribute.prefetch.is_none().then(|| {
        let concurrency = attribute.concurrency.as_ref().map_or(1, |written| written.value);
        // An event is quick as a rule, and many come at once.
        let prefetch = concurrency.max(10);
        quote!(.prefetch(#prefetch))
    });
    let options = expand::options(attribute, private);
    let doc = schema::doc(&function.attributes);
    let event = event(model).map(|event| &event.ty);
    quote! {
        #(#conditions)*
        #private::register_subscriber! {
            #allowances
            const _: () = {
                fn __run(#call: #private::Call) -> #private::BoxFuture<'static, #private::Outcome> {
                    #run
                }

                fn __needs() -> ::std::vec::Vec<#private::Need> {
                    ::std::vec![#(#needs),*]
                }

                fn __queue() -> &'static #private::QueueSpec {
                    static QUEUE: ::std::sync::LazyLock<#private::QueueSpec> =
                        ::std::sync::LazyLock::new(|| #queue #prefetch #subscription);
                    &QUEUE
                }

                fn __options() -> &'static #private::TaskOptions {
                    static OPTIONS: ::std::sync::LazyLock<#private::TaskOptions> =
                        ::std::sync::LazyLock::new(|| #options);
                    &OPTIONS
                }

                const __REGISTRATION: #private::Registration = #private::Registration {
                    name: #name,
                    path: ::core::concat!(::core::module_path!(), #path),
                    queue: __queue,
                    options: __options,
                    run: __run,
                    needs: __needs,
                    is_subscriber: true,
                };

                #[automatically_derived]
                impl #private::Runnable for #payload {
                    fn registration() -> #private::Registration {
                        __REGISTRATION
                    }
                }

                #private::inventory::submit! { __REGISTRATION }

                #private::described! {
                    #private::inventory::submit! {
                        #private::Description::Subscriber(#private::SubscriberDescription {
                            name: #name,
                            doc: #doc,
                            queue: __queue,
                            event: ::core::any::TypeId::of::<#event>,
                        })
                    }
                }
            };
        }
    }
}

/// Where the queue gets its messages from.
fn subscription(model: &Model) -> TokenStream {
    let Model { private, attribute, .. } = model;
    let Some(Field { ty, .. }) = event(model) else { return TokenStream::new() };
    let exchange = option(attribute.exchange.as_ref().map(|exchange| {
        let name = &exchange.value;
        quote!(#name)
    }));
    let kind = option(attribute.exchange_kind.as_ref().map(|kind| kind.value.expand(private)));
    let bindings = attribute.bindings.iter().map(|Written { value, .. }| match value {
        Binding::Key(key) => quote!(.key(#key)),
        Binding::Headers { any, headers } => {
            let headers = headers.iter().map(|(name, value)| {
                let value = match value {
                    syn::Lit::Int(number) => quote!(#number as ::core::primitive::i64),
                    value => quote!(#value),
                };
                quote!((#name, <#private::HeaderValue as ::core::convert::From<_>>::from(#value)))
            });
            quote!(.headers(#any, [#(#headers),*]))
        }
    });
    let exact = attribute.exact.is_some().then(|| quote!(.exact()));
    quote!(#private::subscription::<#ty>(#exchange, #kind) #(#bindings)* #exact)
}

/// Reads the message, where a task reads its payload.
fn read(model: &Model, call: &Ident) -> expand::Reading {
    let ty = event(model).map(|event| &event.ty);
    let read = Ident::new("__event", Span::mixed_site());
    let bad = Ident::new("__bad", Span::mixed_site());
    expand::Reading {
        statement: quote! {
            let #read: #ty = match #call.event() {
                ::core::result::Result::Ok(#read) => #read,
                ::core::result::Result::Err(#bad) => return #bad,
            };
        },
        argument: Box::new(move |_| quote!(#read)),
    }
}
