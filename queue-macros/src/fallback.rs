//! The code that is emitted beside a mistake: enough of a task that the rest of the program compiles, so that one typo is
//! one error. Nothing of it ever runs.

use proc_macro2::TokenStream;
use quote::quote;

use crate::expand;
use crate::model::Model;

/// The function, its payload, and impls without a body.
pub(crate) fn fallback(model: &Model) -> TokenStream {
    let Model { function, private, name, payload, .. } = model;
    let conditions = function.conditions();
    let function = function.emit();
    let ident = model.function.ident();
    let item = expand::payload(model);
    quote! {
        #function
        #item

        #(#conditions)*
        impl #private::Task for #payload {
            const NAME: &'static ::core::primitive::str = #name;

            type Output = ();

            fn queue() -> &'static #private::QueueSpec {
                ::core::unreachable!()
            }

            fn options() -> &'static #private::TaskOptions {
                ::core::unreachable!()
            }
        }

        #(#conditions)*
        #private::register! {
            #ident; #payload =>
            impl #private::Runnable for #payload {
                fn registration() -> #private::Registration {
                    ::core::unreachable!()
                }
            }
        }
    }
}
