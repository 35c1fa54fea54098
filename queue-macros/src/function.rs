//! The function as it was written.

use crate::attr::Kind;
use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::ParseStream;
use syn::{Attribute, FnArg, Meta, Result, Signature, Token, Visibility};

/// A function, with its body unread: a half-typed body must not cost the editor the payload's type.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    body: TokenStream,
}

impl Function {
    /// Reads a function below `#[task]` or `#[subscriber]`.
    pub(crate) fn parse(kind: Kind, input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        if !begins_function(input) {
            return Err(input.error(format!("`#[{}]` goes above a function", kind.as_str())));
        }
        let signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(input.error(format!("a {} needs a body", kind.as_str())));
        }
        Ok(Self { attributes, visibility, signature, body: input.parse()? })
    }
}

/// True if a function's signature follows: `fn`, with qualifiers before it.
fn begins_function(input: ParseStream<'_>) -> bool {
    let ahead = input.fork();
    loop {
        if ahead.peek(Token![fn]) {
            return true;
        }
        let qualifier = ahead.peek(Token![async])
            || ahead.peek(Token![unsafe])
            || ahead.peek(Token![const])
            || ahead.peek(Token![extern])
            || ahead.peek(syn::LitStr);
        if !qualifier || ahead.parse::<proc_macro2::TokenTree>().is_err() {
            return false;
        }
    }
}

impl Function {
    /// Its name.
    pub(crate) fn ident(&self) -> &Ident {
        &self.signature.ident
    }

    /// True if its first parameter is `self`.
    pub(crate) fn is_method(&self) -> bool {
        self.signature.receiver().is_some()
    }

    /// Its attributes of this name.
    pub(crate) fn attributes(&self, name: &str) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(move |attribute| attribute.path().is_ident(name))
    }

    /// The `cfg` attributes, which all code generated beside the function must carry.
    pub(crate) fn conditions(&self) -> Vec<&Attribute> {
        self.attributes("cfg").collect()
    }

    /// The lints that it allows, for what repeats its types and names. An `expect` becomes an `allow`, since
    /// only the function is certain to fulfil it.
    pub(crate) fn allowances(&self) -> TokenStream {
        self.attributes.iter().filter_map(allowance).collect()
    }

    /// The function without what belongs to the payload's fields.
    pub(crate) fn emit(&self) -> TokenStream {
        let Self { attributes, visibility, signature, body } = self;
        let mut signature = signature.clone();
        for input in &mut signature.inputs {
            if let FnArg::Typed(parameter) = input {
                parameter.attrs.retain(|attribute| !belongs_to_field(attribute));
            }
        }
        quote!(#(#attributes)* #visibility #signature #body)
    }
}

/// True if an attribute of a parameter is meant for the payload's field.
pub(crate) fn belongs_to_field(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde") || attribute.path().is_ident("doc")
}

/// The lint allowance for the generated code, if the attribute is one.
pub(crate) fn allowance(attribute: &Attribute) -> Option<TokenStream> {
    let Meta::List(list) = &attribute.meta else { return None };
    if list.path.is_ident("allow") {
        return Some(attribute.to_token_stream());
    }
    if list.path.is_ident("expect") {
        let lints = &list.tokens;
        return Some(quote!(#[allow(#lints)]));
    }
    None
}
