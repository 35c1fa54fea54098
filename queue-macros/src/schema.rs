//! Describes a task or an event to programs with the feature `schema`, by a copy of its struct, of which schemars
//! makes a JSON Schema as it makes one of the struct itself. A copy, since whether the feature is on is known only to
//! `__private::described!`, which keeps all this or drops it: the struct that the program uses stays the same.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, GenericArgument, Lit, LitStr, Meta, PathArguments, Token, Type};

/// The options of serde that schemars is told of: those that are as true of the copy. The others name functions and types
/// for the struct itself, or do not change what is read.
const TOLD_OF_CONTAINER: [&str; 3] = ["rename_all", "deny_unknown_fields", "transparent"];
const TOLD_OF_FIELD: [&str; 5] = ["rename", "skip", "skip_serializing", "skip_deserializing", "flatten"];

/// With one of these, serde calls a function of the user's to write or read the field.
const WRITTEN_BY_HAND: [&str; 4] = ["with", "serialize_with", "deserialize_with", "getter"];

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
    let options = Options::of(container);
    if let Some(read) = options.text("from").or_else(|| options.text("try_from")) {
        // What serde reads is of that type, which may know as little of schemars as any.
        return match read.parse::<Type>() {
            Ok(read) => quote!(#private::shape_of!(__Shape, #read);),
            Err(error) => error.into_compile_error(),
        };
    }
    let told = options.told(&TOLD_OF_CONTAINER);
    let docs = container.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let may_all_be_missing = options.has("default");
    let mut types = TokenStream::new();
    let fields = fields.enumerate().map(|(index, Field { attributes, ident, ty })| {
        let options = Options::of(attributes);
        let told = options.told(&TOLD_OF_FIELD);
        let docs = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
        let is_by_hand = WRITTEN_BY_HAND.iter().any(|option| options.has(option));
        let described = if is_by_hand {
            // Only the function that writes it knows its form.
            "__private::serde_json::Value".to_owned()
        } else {
            let stand_in = format_ident!("__Field{index}");
            let (ty, stands_in) = match optional(&ty) {
                Some(inner) => (inner, format!("::core::option::Option<{stand_in}>")),
                None => (ty.clone(), stand_in.to_string()),
            };
            types.extend(quote!(#private::shape_of!(#stand_in, #ty);));
            stands_in
        };
        let is_plain = options.is_bare("default") && !is_by_hand && !options.has("skip_serializing_if");
        let default = if is_plain {
            Some(quote!(#[serde(default)]))
        } else {
            // A function may make another value each time, and what it is for is to make one, not to describe it.
            (options.has("default") || may_all_be_missing)
                .then(|| quote!(#[serde(default = "__private::Unstated")]))
        };
        quote!(#(#docs)* #told #default #[schemars(with = #described)] #ident: #ty)
    });
    let fields: Vec<_> = fields.collect();
    quote! {
        // Attributes name it in quotes, where `$crate` cannot stand.
        use #private as __private;
        // schemars counts on these being in scope, which a module without the prelude has not.
        #[allow(unused_imports, reason = "most modules have them")]
        use ::core::{convert::Into as _, default::Default as _, option::Option::Some};

        #types

        #[derive(#private::schemars::JsonSchema)]
        #[schemars(crate = "__private::schemars", rename = #name)]
        #(#docs)*
        #told
        #[allow(dead_code, reason = "it is never made: its fields are all that matters")]
        struct __Shape { #(#fields,)* }
    }
}

/// The serde attributes of a struct or a field.
struct Options(Vec<Meta>);

impl Options {
    fn of(attributes: &[Attribute]) -> Self {
        let serde = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
        // What this cannot read, serde refuses.
        let read = serde.filter_map(|attribute| {
            attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()
        });
        Self(read.flatten().collect())
    }

    fn find(&self, option: &str) -> Option<&Meta> {
        self.0.iter().find(|meta| meta.path().is_ident(option))
    }

    fn has(&self, option: &str) -> bool {
        self.find(option).is_some()
    }

    /// True if it was written without a value.
    fn is_bare(&self, option: &str) -> bool {
        matches!(self.find(option), Some(Meta::Path(_)))
    }

    /// Its value, which serde wants in quotes.
    fn text(&self, option: &str) -> Option<LitStr> {
        match self.find(option)? {
            Meta::NameValue(meta) => syn::parse2(meta.value.to_token_stream()).ok(),
            _ => None,
        }
    }

    /// Those of them that the copy has too.
    fn told(&self, names: &[&str]) -> TokenStream {
        let told = self.0.iter().filter(|meta| names.iter().any(|name| meta.path().is_ident(name)));
        quote!(#(#[serde(#told)])*)
    }
}

/// The text of documentation comments.
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
