//! The parameters: by value they are the job's own, by reference the worker's.

use std::collections::HashSet;

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt as _;
use syn::punctuated::Punctuated;
use syn::{Attribute, FnArg, LitStr, Pat, PatType, Token, Type, TypeReference};

use crate::errors::Errors;
use crate::function::{allowance, belongs_to_field};

/// The source of a parameter's value.
pub(crate) enum Parameter {
    /// A field of the payload.
    Field(Field),
    /// The worker's value of this type: `T` of a `&T`.
    Injected(TokenStream),
}

/// A field of the payload.
pub(crate) struct Field {
    /// The attributes for serde and rustdoc.
    pub(crate) attributes: Vec<Attribute>,
    /// Lints that the parameter allows.
    pub(crate) allowances: Vec<TokenStream>,
    pub(crate) is_documented: bool,
    /// The parameter's name without a leading `_`: that is the compiler's business and must not change the wire.
    pub(crate) ident: Ident,
    /// Its key on the wire.
    pub(crate) key: String,
    pub(crate) ty: TokenStream,
}

const OWNED: &str = "a payload owns its data: take";
const GENERIC_STATE: &str =
    "name the type: state is found by its type; `&dyn Trait` works, `&impl Trait` does not";

/// Reads all parameters and notes what is wrong. A parameter that cannot be read is left out, or, where it is
/// clear what it should have been, taken as that.
pub(crate) fn read_all(inputs: &Punctuated<FnArg, Token![,]>, errors: &mut Errors) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    let mut keys: HashSet<String> = HashSet::new();
    let mut states: HashSet<String> = HashSet::new();
    for input in inputs {
        let parameter = match input {
            FnArg::Receiver(receiver) => {
                errors.on(
                    receiver,
                    "a task is a free function: take what it needs of `self` as `&T`, and give the \
                     worker a `T` as state",
                );
                continue;
            }
            FnArg::Typed(parameter) => parameter,
        };
        for attribute in &parameter.attrs {
            if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
                let name = attribute.path().to_token_stream();
                errors.on(
                    attribute,
                    format!(
                        "`{name}` on a parameter would change the payload on the wire; put it on the \
                     whole function"
                    ),
                );
            }
        }
        let Some(read) = read(parameter, errors) else { continue };
        match &read {
            Parameter::Field(field) if !keys.insert(field.key.clone()) => {
                errors.on(
                    &parameter.pat,
                    format!("two parameters have the key `{}` in the payload: rename one", field.key),
                );
                continue;
            }
            Parameter::Injected(ty) if !states.insert(ty.to_string()) => {
                let ty = &parameter.ty;
                let ty = spelled(&ty.to_token_stream());
                errors.on(
                    &parameter.ty,
                    format!("`{ty}` is taken twice, and both would be the same value: take it once"),
                );
                continue;
            }
            _ => {}
        }
        parameters.push(read);
    }
    parameters
}

fn read(parameter: &PatType, errors: &mut Errors) -> Option<Parameter> {
    match bare(&parameter.ty) {
        Type::Reference(reference) => match &*reference.elem {
            elem if is_borrowed_text_or_slice(elem) => {
                let owned = owned(elem);
                let words = format!("{OWNED} `{}` (a `&T` is the worker's state)", spelled(&owned.0));
                errors.on(reference, words);
                field(parameter, owned.1, errors).map(Parameter::Field)
            }
            _ => injected(parameter, reference, errors).map(Parameter::Injected),
        },
        ty => by_value(parameter, ty, errors).map(Parameter::Field),
    }
}

/// Checks a parameter that belongs to the job.
fn by_value(parameter: &PatType, ty: &Type, errors: &mut Errors) -> Option<Field> {
    let tokens = ty.to_token_stream();
    if let Some(token) = find_impl(&tokens) {
        errors.on(
            token,
            "name the type: the parameters become the fields of a struct, which has no `impl Trait`",
        );
        return None;
    }
    if let Some(token) = find_borrow(&tokens) {
        errors.on(
            token,
            format!(
                "{OWNED} a type that borrows nothing, as `String` for `&str` (a `&T` parameter is the \
             worker's state)"
            ),
        );
        return None;
    }
    if let Type::Path(path) = ty
        && let Some(last) = path.path.segments.last()
        && last.ident == "Context"
        && last.arguments.is_none()
    {
        errors.on(ty, "take `&Context`: it belongs to the worker, and is lent to the job");
        return None;
    }
    field(parameter, parameter.ty.to_token_stream(), errors)
}

/// Makes a parameter a field.
fn field(parameter: &PatType, ty: TokenStream, errors: &mut Errors) -> Option<Field> {
    let ident = match &*parameter.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => &pattern.ident,
        Pat::Wild(wild) => {
            errors.on(
                wild,
                "a parameter needs a name, which is its key in the payload: write `_name` for one \
                 that is not used",
            );
            return None;
        }
        pattern => {
            errors.on(
                pattern,
                "a parameter needs a name, which is its key in the payload: take it apart in the body",
            );
            return None;
        }
    };
    let ident = without_leading_underscores(ident);
    let key = renamed(&parameter.attrs).unwrap_or_else(|| ident.unraw().to_string());
    let attributes =
        parameter.attrs.iter().filter(|attribute| belongs_to_field(attribute)).cloned().collect();
    let allowances = parameter.attrs.iter().filter_map(allowance).collect();
    let is_documented = parameter.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
    Some(Field { attributes, allowances, is_documented, ident, key, ty })
}

/// Checks a parameter that belongs to the worker, and finds the type by which its value is looked up.
fn injected(parameter: &PatType, reference: &TypeReference, errors: &mut Errors) -> Option<TokenStream> {
    for attribute in parameter.attrs.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        errors.on(
            attribute,
            "a `&T` is the worker's state and not part of the payload: `serde` has nothing to do here",
        );
    }
    if let Some(token) = reference.mutability {
        let and = reference.and_token;
        errors.on(
            quote!(#and #token),
            "state is shared by all jobs: take `&T` and put the change behind a `Mutex` or an atomic",
        );
        return None;
    }
    if let Some(lifetime) = &reference.lifetime {
        errors.on(lifetime, "state is lent to one job at a time: take `&T` without a lifetime");
        return None;
    }
    let ty = bare(&reference.elem).to_token_stream();
    if let Some(token) = find_impl(&ty) {
        errors.on(token, GENERIC_STATE);
        return None;
    }
    if let Some(token) = find_borrow(&ty) {
        errors.on(token, "state lives as long as the worker: its type cannot borrow");
        return None;
    }
    Some(ty)
}

/// A type without the parentheses and invisible groups around it.
fn bare(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Paren(paren) => &paren.elem,
            Type::Group(group) => &group.elem,
            ty => return ty,
        };
    }
}

/// `str` or `[T]`: no state, but a payload written as a borrow.
fn is_borrowed_text_or_slice(ty: &Type) -> bool {
    match bare(ty) {
        Type::Slice(_) => true,
        Type::Path(path) => path.path.is_ident("str"),
        _ => false,
    }
}

/// The type to take instead of `str` or `[T]`: as the user would write it, and as an absolute path.
fn owned(ty: &Type) -> (TokenStream, TokenStream) {
    match bare(ty) {
        Type::Slice(slice) => {
            let elem = &slice.elem;
            (quote!(Vec<#elem>), quote!(::std::vec::Vec<#elem>))
        }
        _ => (quote!(String), quote!(::std::string::String)),
    }
}

/// Tokens as a person would write them.
pub(crate) fn spelled(tokens: &TokenStream) -> String {
    let text = tokens.to_string();
    ["& ", " :: ", " < ", " >", ":: ", "< ", " <"]
        .iter()
        .fold(text, |text, spaced| text.replace(spaced, spaced.trim()))
}

fn without_leading_underscores(ident: &Ident) -> Ident {
    let name = ident.unraw().to_string();
    let stripped = name.trim_start_matches('_');
    if stripped == name {
        return ident.clone();
    }
    if let Ok(mut plain) = syn::parse_str::<Ident>(stripped) {
        plain.set_span(ident.span());
        return plain;
    }
    match stripped {
        // These and numbers cannot be names at all, so neither can the parameter ever lose its underscore.
        "" | "self" | "Self" | "super" | "crate" => ident.clone(),
        number if number.starts_with(|c: char| c.is_ascii_digit()) => ident.clone(),
        keyword => Ident::new_raw(keyword, ident.span()),
    }
}

/// The key that `#[serde(rename = "..")]` gives.
fn renamed(attributes: &[Attribute]) -> Option<String> {
    let mut key = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        // What this cannot read, serde reads or refuses.
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("rename") {
                key = Some(meta.value()?.parse::<LitStr>()?.value());
            } else if meta.input.peek(Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            } else if meta.input.peek(syn::token::Paren) {
                meta.input.parse::<TokenTree>()?;
            }
            Ok(())
        });
    }
    key
}

/// The first `impl` in a type.
pub(crate) fn find_impl(ty: &TokenStream) -> Option<TokenTree> {
    find(ty, &mut |token, _| matches!(token, TokenTree::Ident(ident) if ident == "impl"))
}

/// The first `&` or lifetime in a type that is not `'static`.
fn find_borrow(ty: &TokenStream) -> Option<TokenTree> {
    let is_apostrophe =
        |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == '\'');
    let is_static =
        |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Ident(ident)) if ident == "static");
    find(ty, &mut |token, rest| match token {
        TokenTree::Punct(punct) if punct.as_char() == '&' => !is_apostrophe(rest.first()),
        TokenTree::Punct(punct) if punct.as_char() == '\'' => !is_static(rest.first()),
        _ => false,
    })
}

/// The first token of which `is_sought` says so, given the tokens after it.
fn find(
    tokens: &TokenStream,
    is_sought: &mut impl FnMut(&TokenTree, &[TokenTree]) -> bool,
) -> Option<TokenTree> {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        if is_sought(token, &tokens[index + 1..]) {
            return Some(token.clone());
        }
        if let TokenTree::Group(group) = token
            && let Some(found) = find(&group.stream(), is_sought)
        {
            return Some(found);
        }
    }
    None
}
