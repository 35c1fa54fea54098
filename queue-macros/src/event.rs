//! `#[derive(Event)]`: reads `#[event(..)]` and writes the impl. Small enough to be one file: options, the key's
//! template, the code.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::punctuated::Punctuated;
use syn::{Data, DeriveInput, Error, Fields, LitStr, Path, Token};

use crate::errors::Errors;
use crate::value::{self, ExchangeKind, Format};
use crate::{function, schema, suggest};

const OPTIONS: [&str; 7] = ["exchange", "kind", "key", "headers", "name", "format", "crate"];

/// The options in `#[event(..)]`.
#[derive(Default)]
struct Options {
    exchange: Option<LitStr>,
    kind: Option<(LitStr, ExchangeKind)>,
    key: Option<LitStr>,
    headers: Option<Vec<Ident>>,
    name: Option<LitStr>,
    format: Option<Format>,
    krate: Option<Path>,
    /// Every option that stands there, readable or not.
    seen: Vec<String>,
}

/// A part of a routing key.
#[derive(Debug, PartialEq)]
enum Part {
    Literal(String),
    Field(String),
}

/// Expands `#[derive(Event)]`.
pub(crate) fn event(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::default();
    let options = Options::read(&input, &mut errors);
    let fields = fields(&input, &mut errors);
    let krate = options.krate.as_ref().map_or_else(|| quote!(::leveret), ToTokens::to_token_stream);
    let private = quote!(#krate::__private);
    if !input.generics.params.is_empty() {
        errors.on(&input.generics.params, "an event cannot be generic: one name on the wire is one type");
    }
    let kind = options.check(&fields, &mut errors);
    let parts = options.key.as_ref().and_then(|key| {
        errors
            .ok(template(key, kind == Some(ExchangeKind::Topic)).and_then(|parts| known(key, parts, &fields)))
    });
    let mut code = if errors.is_empty() {
        expand(&input, &options, kind, parts, &private)
    } else {
        fallback(&input, &options, kind, &private)
    };
    code.extend(errors.into_compile_errors());
    code
}

impl Options {
    fn read(input: &DeriveInput, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let mut attributes =
            input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")).peekable();
        if attributes.peek().is_none() {
            errors.at(
                Span::call_site(),
                "an event needs its exchange: add `#[event(exchange = \"order.events\", kind = \"fanout\")]`",
            );
            // One mistake, one error.
            options.seen = vec!["exchange".to_owned(), "kind".to_owned()];
        }
        for attribute in attributes {
            let read = attribute.parse_nested_meta(|meta| {
                let Some(key) = meta.path.get_ident() else {
                    return Err(meta.error("expected an option, as in `exchange = \"order.events\"`"));
                };
                let name = key.unraw().to_string();
                if !OPTIONS.contains(&&*name) {
                    let hint = match suggest::nearest(&name, OPTIONS) {
                        _ if matches!(&*name, "alias" | "aliases") => {
                            "subscribers of ours take what their queue \
                             brings, under any name; remove it, or keep the old name with `name = \"…\"`"
                                .to_owned()
                        }
                        Some(nearest) => format!("did you mean `{nearest}`?"),
                        None => format!("the options are `{}`", OPTIONS.join("`, `")),
                    };
                    return Err(meta.error(format!("unknown `event` option `{name}`: {hint}")));
                }
                if options.seen.contains(&name) {
                    return Err(meta.error(format!("`{name}` is given twice: remove one of them")));
                }
                options.seen.push(name.clone());
                match name.as_str() {
                    "exchange" => {
                        options.exchange = Some(checked(meta.value()?.parse()?, value::exchange_name)?)
                    }
                    "kind" => {
                        let text: LitStr = meta.value()?.parse()?;
                        let kind = value::exchange_kind(&literal(&text))?;
                        options.kind = Some((text, kind));
                    }
                    "key" => options.key = Some(meta.value()?.parse()?),
                    "name" => options.name = Some(checked(meta.value()?.parse()?, value::task_name)?),
                    "format" => options.format = Some(value::format(&literal(&meta.value()?.parse()?))?),
                    "crate" => options.krate = Some(meta.value()?.call(Path::parse_mod_style)?),
                    _ => {
                        let inside;
                        syn::parenthesized!(inside in meta.input);
                        let names =
                            Punctuated::<Ident, Token![,]>::parse_terminated_with(&inside, Ident::parse_any)?;
                        options.headers = Some(names.into_iter().collect());
                    }
                }
                Ok(())
            });
            errors.ok(read);
        }
        options
    }

    /// The event's name on the wire: the struct's, unless it says otherwise.
    fn wire_name(&self, ident: &Ident) -> String {
        self.name.as_ref().map_or_else(|| ident.unraw().to_string(), LitStr::value)
    }

    /// Checks that need more than one option.
    fn check(&self, fields: &[Ident], errors: &mut Errors) -> Option<ExchangeKind> {
        for (option, example) in [("exchange", "exchange = \"order.events\""), ("kind", "kind = \"fanout\"")]
        {
            if !self.seen.iter().any(|seen| seen == option) {
                errors.at(Span::call_site(), format!("`{option}` is missing: add `{example}`"));
            }
        }
        let (text, kind) = self.kind.as_ref()?;
        match (kind, &self.key) {
            (ExchangeKind::Fanout | ExchangeKind::Headers, Some(key)) => {
                errors.on(key, format!("a {} exchange ignores routing keys: remove `key`", text.value()));
            }
            (ExchangeKind::Topic | ExchangeKind::Direct, None)
                if !self.seen.iter().any(|seen| seen == "key") =>
            {
                errors.on(
                    text,
                    format!(
                        "a {} exchange routes by key: add `key = \"order.{{region}}.placed\"`, filled from fields",
                        text.value()
                    ),
                );
            }
            _ => {}
        }
        match (kind, &self.headers) {
            (ExchangeKind::Headers, None) if !self.seen.iter().any(|seen| seen == "headers") => {
                errors.on(text, "a headers exchange routes by headers: add `headers(region)`, the fields that are sent as such");
            }
            (ExchangeKind::Headers, _) | (_, None) => {}
            (_, Some(_)) => errors.on(text, "only a headers exchange routes by headers: remove `headers(..)`, or write `kind = \"headers\"`"),
        }
        for name in self.headers.iter().flatten() {
            if !fields.iter().any(|field| field.unraw() == name.unraw()) {
                errors.on(name, no_field(&name.unraw().to_string(), fields));
            }
        }
        Some(*kind)
    }
}

fn literal(text: &LitStr) -> syn::Expr {
    syn::Expr::Lit(syn::ExprLit { attrs: Vec::new(), lit: syn::Lit::Str(text.clone()) })
}

fn checked(text: LitStr, check: impl Fn(&syn::Expr) -> syn::Result<String>) -> syn::Result<LitStr> {
    check(&literal(&text)).map(|_| text)
}

/// The names of the struct's fields.
fn fields(input: &DeriveInput, errors: &mut Errors) -> Vec<Ident> {
    if let Data::Struct(data) = &input.data
        && let Fields::Named(named) = &data.fields
    {
        return named.named.iter().filter_map(|field| field.ident.clone()).collect();
    }
    errors.on(&input.ident, "an event is a struct with named fields: its body is a JSON object");
    Vec::new()
}

/// Takes `order.{region}.placed` apart.
fn template(key: &LitStr, is_topic: bool) -> syn::Result<Vec<Part>> {
    let refuse = |words: String| Err(Error::new_spanned(key, words));
    let text = key.value();
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['{', '}']) {
        if rest[at..].starts_with('}') {
            return refuse(format!("`}}` in `{text}` closes nothing: a field is written `{{region}}`"));
        }
        let Some(end) = rest[at..].find('}') else {
            return refuse(format!("`{{` in `{text}` is never closed: a field is written `{{region}}`"));
        };
        if at > 0 {
            parts.push(Part::Literal(rest[..at].to_owned()));
        }
        let name = rest[at + 1..at + end].trim();
        parts.push(Part::Field(name.strip_prefix("r#").unwrap_or(name).to_owned()));
        rest = &rest[at + end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    let literals: String =
        parts.iter().map(|part| if let Part::Literal(text) = part { text.as_str() } else { "x" }).collect();
    if literals.len() > 255 {
        return refuse(format!(
            "a key of at least {} bytes: AMQP carries at most 255, shorten it",
            literals.len()
        ));
    }
    if is_topic && let Some(wild) = literals.split('.').find(|word| word.contains(['*', '#'])) {
        return refuse(format!(
            "`{wild}` is a wildcard, which stands in a subscriber's `binding`: an event's key names what happened"
        ));
    }
    if is_topic && literals.split('.').any(str::is_empty) {
        return refuse(format!("`{text}` has an empty word: write words with single dots between them"));
    }
    Ok(parts)
}

/// Checks that the fields in a key are there.
fn known(key: &LitStr, parts: Vec<Part>, fields: &[Ident]) -> syn::Result<Vec<Part>> {
    let missing = parts.iter().find_map(|part| match part {
        Part::Field(name) if !fields.iter().any(|field| field.unraw() == name) => Some(name),
        _ => None,
    });
    match missing {
        Some(name) => Err(Error::new_spanned(key, no_field(name, fields))),
        None => Ok(parts),
    }
}

fn no_field(name: &str, fields: &[Ident]) -> String {
    let names: Vec<_> = fields.iter().map(|field| field.unraw().to_string()).collect();
    match suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(nearest) => format!("the event has no field `{name}`: did you mean `{nearest}`?"),
        None if names.is_empty() => format!("the event has no field `{name}`: it has no fields"),
        None => format!("the event has no field `{name}`: it has `{}`", names.join("`, `")),
    }
}

fn expand(
    input: &DeriveInput,
    options: &Options,
    kind: Option<ExchangeKind>,
    parts: Option<Vec<Part>>,
    private: &TokenStream,
) -> TokenStream {
    let ident = &input.ident;
    let name = options.wire_name(ident);
    let exchange = &options.exchange;
    let description = description(input, options, kind, private);
    let kind = kind.map(|kind| kind.expand(private));
    let format = options.format.map(|format| {
        let format = format.expand(private);
        quote!(const FORMAT: #private::Format = #format;)
    });
    let key = parts.map(|parts| {
        let span = ours(options.key.as_ref().map_or_else(Span::call_site, LitStr::span));
        let steps = parts.iter().map(|part| match part {
            Part::Literal(text) => quote!(.literal(#text)),
            Part::Field(name) => {
                let field = field_ident(name, span);
                quote_spanned!(span=> .field(#name, &self.#field)?)
            }
        });
        quote! {
            fn routing_key(&self) -> ::core::result::Result<#private::Name, #private::PublishError> {
                #private::KeyWriter::new(#name, #kind) #(#steps)* .finish()
            }
        }
    });
    let headers = options.headers.as_ref().map(|fields| {
        let inserts = fields.iter().map(|field| {
            let name = field.unraw().to_string();
            quote_spanned!(ours(field.span())=> __headers.insert(#name, ::core::clone::Clone::clone(&self.#field));)
        });
        quote! {
            fn headers(&self) -> #private::Headers {
                let mut __headers = #private::Headers::new();
                #(#inserts)*
                __headers
            }
        }
    });
    let allowances = allowances(input);
    quote! {
        #allowances
        #[automatically_derived]
        impl #private::Event for #ident {
            const NAME: &'static ::core::primitive::str = #name;
            const EXCHANGE: &'static ::core::primitive::str = #exchange;
            const KIND: #private::ExchangeKind = #kind;
            #format
            #key
            #headers
        }
        #description
    }
}

/// Lints that generated code must not raise beside the struct's own, for it repeats names and types of its fields.
fn allowances(input: &DeriveInput) -> TokenStream {
    let fields = match &input.data {
        Data::Struct(data) => Some(data.fields.iter().flat_map(|field| &field.attrs)),
        _ => None,
    };
    let attributes: Vec<_> = input.attrs.iter().chain(fields.into_iter().flatten()).collect();
    let mut allowances: TokenStream =
        attributes.iter().filter_map(|attribute| function::allowance(attribute)).collect();
    if attributes.iter().any(|attribute| attribute.path().is_ident("deprecated")) {
        allowances.extend(quote!(#[allow(deprecated, reason = "a deprecated event is still published")]));
    }
    allowances
}

/// The description of the event, in a program with the feature `schema`. Its own `JsonSchema` counts, where it has one. Says what
/// it knows itself and does not ask the impl, which an event without serde's derives has not.
fn description(
    input: &DeriveInput,
    options: &Options,
    kind: Option<ExchangeKind>,
    private: &TokenStream,
) -> TokenStream {
    let ident = &input.ident;
    let name = ident.unraw().to_string();
    let doc = schema::doc(&input.attrs);
    let key = options.key.as_ref().map_or_else(String::new, LitStr::value).replace("{r#", "{");
    let headers = options.headers.iter().flatten().map(|header| header.unraw().to_string());
    let Data::Struct(data) = &input.data else { return TokenStream::new() };
    let fields = data.fields.iter().filter_map(|field| {
        let ident = field.ident.as_ref()?;
        // In the copy, `Self` would be another type.
        let ty = named(field.ty.to_token_stream(), &input.ident);
        Some(schema::Field { attributes: &field.attrs, ident, ty })
    });
    let shape = schema::shape(private, &name, &input.attrs, fields);
    let (event_name, exchange) = (options.wire_name(ident), &options.exchange);
    let kind = kind.map(|kind| kind.expand(private));
    let format = options.format.unwrap_or(Format::Json).expand(private);
    let allowances = allowances(input);
    quote! {
        #private::described! {
            #allowances
            const _: () = {
                #shape

                fn __payload(
                    __generator: &mut #private::schemars::SchemaGenerator,
                ) -> #private::schemars::Schema {
                    #private::describe!(#ident or __Shape, __generator)
                }

                #private::inventory::submit! {
                    #private::Description::Event(#private::EventDescription {
                        name: #event_name,
                        id: ::core::any::TypeId::of::<#ident>,
                        doc: #doc,
                        exchange: #exchange,
                        kind: #kind,
                        format: #format,
                        key: #key,
                        headers: &[#(#headers),*],
                        payload: __payload,
                    })
                }
            };
        }
    }
}

/// A type with the struct's name for `Self`.
fn named(ty: TokenStream, name: &Ident) -> TokenStream {
    let token = |token| match token {
        TokenTree::Ident(ident) if ident == "Self" => TokenTree::Ident(name.clone()),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), named(group.stream(), name));
            inner.set_span(group.span());
            TokenTree::Group(inner)
        }
        other => other,
    };
    ty.into_iter().map(token).collect()
}

/// Beside a mistake: an impl that never runs, so that one typo is one error.
fn fallback(
    input: &DeriveInput,
    options: &Options,
    kind: Option<ExchangeKind>,
    private: &TokenStream,
) -> TokenStream {
    if !input.generics.params.is_empty() {
        return TokenStream::new();
    }
    let ident = &input.ident;
    // As far as they are known, so that its subscribers are right.
    let exchange = options.exchange.as_ref().map_or_else(String::new, LitStr::value);
    let kind = kind.unwrap_or(ExchangeKind::Topic).expand(private);
    let allowances = allowances(input);
    quote! {
        #allowances
        #[automatically_derived]
        impl #private::Event for #ident {
            const NAME: &'static ::core::primitive::str = "";
            const EXCHANGE: &'static ::core::primitive::str = #exchange;
            const KIND: #private::ExchangeKind = #kind;
        }
    }
}

/// The span, with names resolved at the call site: in a `macro_rules!`, `self` would be another.
fn ours(span: Span) -> Span {
    span.resolved_at(Span::call_site())
}

fn field_ident(name: &str, span: Span) -> Ident {
    syn::parse_str::<Ident>(name).map_or_else(
        |_| Ident::new_raw(name, span),
        |mut ident| {
            ident.set_span(span);
            ident
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(key: &str) -> Result<Vec<Part>, String> {
        template(&LitStr::new(key, Span::call_site()), true).map_err(|error| error.to_string())
    }

    #[test]
    fn template_is_literals_and_fields() {
        let region = || Part::Field("region".to_owned());
        let literal = |text: &str| Part::Literal(text.to_owned());

        assert_eq!(parts("order.{region}.placed"), Ok(vec![literal("order."), region(), literal(".placed")]));
        assert_eq!(parts("{region}"), Ok(vec![region()]));
        assert_eq!(parts("order.placed"), Ok(vec![literal("order.placed")]));
    }

    #[test]
    fn template_that_is_no_key_is_refused() {
        assert!(parts("order.{region").unwrap_err().contains("never closed"));
        assert!(parts("order.region}").unwrap_err().contains("closes nothing"));
        assert!(parts("order.*").unwrap_err().contains("wildcard"));
        assert!(parts("order..placed").unwrap_err().contains("empty word"));
        assert!(parts(&"x".repeat(256)).unwrap_err().contains("at most 255"));
    }
}
