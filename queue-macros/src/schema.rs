//! What describes a task or an event to programs with the feature `schema`: a copy of its struct, of which schemars
//! makes a JSON Schema as it makes one of the struct itself. A copy, since whether the feature is on is known only to
//! `__private::described!`, which keeps all this or drops it: the struct that the program uses stays the same.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Expr, GenericArgument, Lit, LitStr, Meta, PathArguments, Token, Type};

/// A field of the struct.
pub(crate) struct Field<'a> {
    pub(crate) attributes: &'a [Attribute],
    pub(crate) ident: &'a proc_macro2::Ident,
    pub(crate) ty: TokenStream,
}

/// The copy, named `__Shape`, and a type for each field. They want a block of their own.
pub(crate) fn shape<'a>(
    private: &TokenStream,
    name: &str,
    container: &[Attribute],
    fields: impl Iterator<Item = Field<'a>>,
) -> TokenStream {
    let schemars = path(quote!(#private::schemars));
    let container = container.iter().filter(|attribute| is_told_to_schemars(attribute));
    let mut types = TokenStream::new();
    let fields = fields.enumerate().map(|(index, Field { attributes, ident, ty })| {
        let told = attributes.iter().filter(|attribute| is_told_to_schemars(attribute));
        let described = if attributes.iter().any(is_written_by_hand) {
            // Nobody but the function that writes it knows what it looks like.
            path(quote!(#private::serde_json::Value))
        } else {
            let stand_in = format_ident!("__Field{index}");
            let (ty, stands_in) = match optional(&ty) {
                Some(inner) => (inner, quote!(::core::option::Option<#stand_in>)),
                None => (ty.clone(), stand_in.to_token_stream()),
            };
            types.extend(quote!(#private::shape_of!(#stand_in, #ty);));
            path(stands_in)
        };
        quote!(#(#told)* #[schemars(with = #described)] #ident: #ty)
    });
    let fields: Vec<_> = fields.collect();
    quote! {
        // schemars counts on it being in scope, which a module without the prelude has not.
        #[allow(unused_imports, reason = "most modules have it")]
        use ::core::convert::Into as _;

        #types

        #[derive(#private::schemars::JsonSchema)]
        #[schemars(crate = #schemars, rename = #name)]
        #(#container)*
        #[allow(dead_code, reason = "it is never made: its fields are all that matters")]
        struct __Shape { #(#fields,)* }
    }
}

/// What stands in documentation comments, as one text.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(value) => match &value.lit {
                Lit::Str(line) => Some(line.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect();
    lines.join("\n").trim().to_owned()
}

/// A path or type in quotes, as attributes want it.
fn path(tokens: TokenStream) -> LitStr {
    LitStr::new(&tokens.to_string().replace(' ', ""), Span::call_site())
}

fn is_told_to_schemars(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde") || attribute.path().is_ident("doc")
}

/// Whether serde calls a function of the user's to write or read the field.
fn is_written_by_hand(attribute: &Attribute) -> bool {
    let mut is_by_hand = false;
    if attribute.path().is_ident("serde") {
        // What this cannot read, serde refuses.
        let _ = attribute.parse_nested_meta(|meta| {
            is_by_hand |= ["with", "serialize_with", "deserialize_with", "getter"]
                .iter()
                .any(|option| meta.path.is_ident(option));
            if meta.input.peek(Token![=]) {
                meta.value()?.parse::<Expr>()?;
            } else if meta.input.peek(syn::token::Paren) {
                meta.input.parse::<proc_macro2::TokenTree>()?;
            }
            Ok(())
        });
    }
    is_by_hand
}

/// The `T` of an `Option<T>`: a field that may be missing.
fn optional(ty: &TokenStream) -> Option<TokenStream> {
    let Type::Path(path) = syn::parse2::<Type>(ty.clone()).ok()? else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.iter().collect::<Vec<_>>()[..] {
        [GenericArgument::Type(inner)] => Some(inner.to_token_stream()),
        _ => None,
    }
}
