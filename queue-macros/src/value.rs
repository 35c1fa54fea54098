//! The values that options take, each read from an expression. A refusal says what was found, what is allowed,
//! and what to do.

use std::fmt::Display;

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{Error, Expr, ExprCall, Lit, LitStr, Result};

use crate::{duration, suggest};

/// The longest name that AMQP carries, in bytes.
const MAX_NAME: usize = 255;

/// A value, or the word `none`.
pub(crate) enum OrNone<T> {
    None,
    Some(T),
}

/// The exchange for dead letters, or `none`.
pub(crate) type Dlx = OrNone<String>;

/// The waits between attempts, in milliseconds.
pub(crate) enum Backoff {
    /// Doubling from `base`, at most `max`, or where that is empty 10 minutes.
    Exponential {
        base: u64,
        max: Option<u64>,
    },
    Fixed(u64),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum QueueType {
    Quorum,
    Classic,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Declare {
    Active,
    Passive,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Overflow {
    Reject,
    DeadLetter,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum ExchangeKind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

/// How a payload is written.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Format {
    Json,
    MessagePack,
    Cbor,
}

impl Format {
    pub(crate) fn expand(self, private: &TokenStream) -> TokenStream {
        match self {
            Self::Json => quote!(#private::Format::Json),
            Self::MessagePack => quote!(#private::Format::MessagePack),
            Self::Cbor => quote!(#private::Format::Cbor),
        }
    }
}

impl ExchangeKind {
    pub(crate) fn expand(self, private: &TokenStream) -> TokenStream {
        match self {
            Self::Direct => quote!(#private::ExchangeKind::Direct),
            Self::Fanout => quote!(#private::ExchangeKind::Fanout),
            Self::Topic => quote!(#private::ExchangeKind::Topic),
            Self::Headers => quote!(#private::ExchangeKind::Headers),
        }
    }
}

/// The expression inside the invisible groups that `macro_rules!` puts around what it passes on.
pub(crate) fn ungrouped(mut value: &Expr) -> &Expr {
    while let Expr::Group(group) = value {
        value = &group.expr;
    }
    value
}

/// A name that crosses the wire as the task's.
pub(crate) fn task_name(value: &Expr) -> Result<String> {
    let literal = string(value)?;
    let name = literal.value();
    check_length(&name).map_err(|words| Error::new_spanned(literal, words))?;
    Ok(name)
}

/// Other names of a task on the wire: `["send_mail", "mail.send"]`.
pub(crate) fn aliases(value: &Expr) -> Result<Vec<LitStr>> {
    const FORM: &str = r#"expected names in brackets, as in `aliases = ["send_mail"]`"#;
    let Expr::Array(array) = value else { return Err(Error::new_spanned(value, FORM)) };
    if array.elems.is_empty() {
        return Err(Error::new_spanned(value, "an empty list: name the task's former names, or remove it"));
    }
    let name = |element| task_name(ungrouped(element)).and_then(|_| string(ungrouped(element)));
    array.elems.iter().map(name).collect()
}

/// A name of a queue or exchange, or a routing key.
pub(crate) fn amqp_name(value: &Expr) -> Result<String> {
    let literal = string(value)?;
    let name = literal.value();
    check_length(&name).map_err(|words| Error::new_spanned(&literal, words))?;
    if name.starts_with("amq.") {
        let words = format!("`{name}` begins with `amq.`, which AMQP reserves: rename it");
        return Err(Error::new_spanned(literal, words));
    }
    Ok(name)
}

/// The name of an exchange that messages come from. Those that AMQP reserves are always there.
pub(crate) fn exchange_name(value: &Expr) -> Result<String> {
    let literal = string(value)?;
    let name = literal.value();
    check_length(&name).map_err(|words| Error::new_spanned(&literal, words))?;
    Ok(name)
}

/// The exchange that a subscriber's messages come from; the empty name is AMQP's default exchange, which routes by the
/// name of the queue.
pub(crate) fn source_exchange(value: &Expr) -> Result<String> {
    match string(value) {
        Ok(literal) if literal.value().is_empty() => Ok(String::new()),
        _ => exchange_name(value),
    }
}

/// A binding's routing key, or on a topic exchange its pattern.
pub(crate) fn binding_key(value: &Expr) -> Result<String> {
    let literal = string(value)?;
    let key = literal.value();
    if key.len() > MAX_NAME {
        let words = format!("a key of {} bytes: AMQP carries at most {MAX_NAME}, shorten it", key.len());
        return Err(Error::new_spanned(literal, words));
    }
    Ok(key)
}

/// `bindings = "exact"`
pub(crate) fn exact(value: &Expr) -> Result<()> {
    choice(value, &[("exact", ())])
}

/// How an exchange routes.
pub(crate) fn exchange_kind(value: &Expr) -> Result<ExchangeKind> {
    choice(
        value,
        &[
            ("direct", ExchangeKind::Direct),
            ("fanout", ExchangeKind::Fanout),
            ("topic", ExchangeKind::Topic),
            ("headers", ExchangeKind::Headers),
        ],
    )
}

/// How a payload is written.
pub(crate) fn format(value: &Expr) -> Result<Format> {
    choice(value, &[("json", Format::Json), ("msgpack", Format::MessagePack), ("cbor", Format::Cbor)])
}

/// A text that fits AMQP's short string.
pub(crate) fn check_length(name: &str) -> std::result::Result<(), String> {
    match name.len() {
        0 => Err("an empty name: give it at least one character".to_owned()),
        1..=MAX_NAME => Ok(()),
        bytes => Err(format!("a name of {bytes} bytes: AMQP carries at most {MAX_NAME}, shorten it")),
    }
}

/// The exchange for dead letters, or `none`.
pub(crate) fn dlx(value: &Expr) -> Result<Dlx> {
    if is_none(value) {
        return Ok(OrNone::None);
    }
    let name = match value {
        Expr::Lit(_) => amqp_name(value)?,
        _ => {
            return Err(Error::new_spanned(
                value,
                r#"expected the name of an exchange, as in "emails.dlx", or `none`"#,
            ));
        }
    };
    if name == "none" {
        return Err(Error::new_spanned(
            value,
            "`\"none\"` would be an exchange of that name: write `none` without quotes to drop \
                 the dead letters",
        ));
    }
    Ok(OrNone::Some(name))
}

/// How long an attempt may take in milliseconds, or `none`.
pub(crate) fn timeout(value: &Expr) -> Result<OrNone<u64>> {
    if is_none(value) {
        return Ok(OrNone::None);
    }
    if let Expr::Lit(lit) = value
        && let Lit::Str(text) = &lit.lit
        && text.value() == "none"
    {
        return Err(Error::new_spanned(value, "write `none` without quotes for no limit"));
    }
    match millis(value)? {
        0 => Err(Error::new_spanned(
            value,
            "a timeout of zero would stop every attempt: write `none` for no limit",
        )),
        millis => Ok(OrNone::Some(millis)),
    }
}

/// How long a message is kept in milliseconds.
pub(crate) fn time_to_live(value: &Expr) -> Result<u32> {
    match millis(value)? {
        0 => Err(Error::new_spanned(
            value,
            "a time to live of zero would keep nothing: leave the option out to keep messages for ever",
        )),
        millis => u32::try_from(millis).map_err(|_| {
            let words = "too long for RabbitMQ, which counts to 4294967295 ms: write \"49d\" or less, \
                         or leave the option out to keep messages for ever";
            Error::new_spanned(value, words)
        }),
    }
}

/// The waits between attempts: `"1s"`, `exponential("1s", max = "1h")` or `fixed("30s")`.
pub(crate) fn backoff(value: &Expr) -> Result<Backoff> {
    match value {
        // `"exponential"` and the like: the name of one, where a duration or a call is meant.
        Expr::Lit(_)
            if string(value).is_ok_and(|text| text.value().starts_with(|c: char| c.is_alphabetic())) =>
        {
            Err(backoff_form(value))
        }
        Expr::Lit(_) => Ok(Backoff::Exponential { base: base(value)?, max: None }),
        Expr::Call(call) => backoff_call(value, call),
        _ => Err(backoff_form(value)),
    }
}

fn backoff_call(value: &Expr, call: &ExprCall) -> Result<Backoff> {
    let Expr::Path(function) = &*call.func else { return Err(backoff_form(value)) };
    let arguments: Vec<&Expr> = call.args.iter().map(ungrouped).collect();
    if function.path.is_ident("fixed") {
        let [wait] = arguments[..] else { return Err(backoff_form(value)) };
        return Ok(Backoff::Fixed(millis(wait)?));
    }
    if !function.path.is_ident("exponential") {
        return Err(backoff_form(function));
    }
    match arguments[..] {
        [from] => Ok(Backoff::Exponential { base: base(from)?, max: None }),
        [from, Expr::Assign(cap)] if matches!(&*cap.left, Expr::Path(key) if key.path.is_ident("max")) => {
            let base = base(from)?;
            let max = millis(ungrouped(&cap.right))?;
            if max < base {
                return Err(Error::new_spanned(
                    &cap.right,
                    "`max` is shorter than the first wait: raise it, or write `fixed(..)`",
                ));
            }
            Ok(Backoff::Exponential { base, max: Some(max) })
        }
        _ => Err(backoff_form(value)),
    }
}

fn backoff_form(found: impl quote::ToTokens) -> Error {
    Error::new_spanned(
        found,
        r#"`backoff` is written "1s" (then 2 s, 4 s …), `exponential("1s", max = "1h")` or `fixed("30s")`"#,
    )
}

/// The first wait of an exponential backoff in milliseconds.
fn base(value: &Expr) -> Result<u64> {
    match millis(value)? {
        0 => Err(Error::new_spanned(
            value,
            r#"doubling zero stays zero: write `fixed("0s")` to retry at once"#,
        )),
        millis => Ok(millis),
    }
}

pub(crate) fn queue_type(value: &Expr) -> Result<QueueType> {
    choice(value, &[("quorum", QueueType::Quorum), ("classic", QueueType::Classic)])
}

pub(crate) fn declare(value: &Expr) -> Result<Declare> {
    choice(value, &[("active", Declare::Active), ("passive", Declare::Passive)])
}

pub(crate) fn overflow(value: &Expr) -> Result<Overflow> {
    choice(value, &[("reject", Overflow::Reject), ("dead-letter", Overflow::DeadLetter)])
}

/// The name of the payload's type.
pub(crate) fn type_name(value: &Expr) -> Result<Ident> {
    if let Expr::Path(path) = value
        && let Some(ident) = path.path.get_ident()
    {
        return Ok(ident.clone());
    }
    Err(Error::new_spanned(value, "expected the name of the type to make, as in `payload = SendEmail`"))
}

pub(crate) fn boolean(value: &Expr) -> Result<bool> {
    match value {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Bool(bool) => Ok(bool.value),
            _ => Err(Error::new_spanned(value, "expected `true` or `false`")),
        },
        _ => Err(Error::new_spanned(value, "expected `true` or `false`")),
    }
}

/// A whole number from `min` to `max`.
pub(crate) fn integer<T: TryFrom<u64> + PartialOrd + Display>(value: &Expr, min: T, max: T) -> Result<T> {
    let number = match value {
        Expr::Lit(lit) => match &lit.lit {
            // A suffix would be a unit, and these numbers have none.
            Lit::Int(number) if number.suffix().is_empty() => number.base10_parse::<u64>().ok(),
            _ => None,
        },
        _ => None,
    };
    number
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| *number >= min && *number <= max)
        .ok_or_else(|| {
            let quoted = string(value).is_ok_and(|text| text.value().trim().parse::<u64>().is_ok());
            let quotes = if quoted { ", without quotes" } else { "" };
            Error::new_spanned(value, format!("expected a whole number from {min} to {max}{quotes}"))
        })
}

/// A duration in milliseconds.
fn millis(value: &Expr) -> Result<u64> {
    let refusal = || Error::new_spanned(value, r#"expected a duration in quotes, as in "30s""#);
    let Expr::Lit(lit) = value else { return Err(refusal()) };
    let Lit::Str(text) = &lit.lit else { return Err(refusal()) };
    duration::parse(&text.value()).map_err(|words| Error::new_spanned(value, words))
}

fn choice<T: Copy>(value: &Expr, choices: &[(&'static str, T)]) -> Result<T> {
    let allowed = || choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
    let Ok(literal) = string(value) else {
        return Err(Error::new_spanned(value, format!("expected {}", allowed())));
    };
    let word = literal.value();
    choices.iter().find(|(choice, _)| *choice == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let hint = match suggest::nearest(&word, choices.iter().map(|(word, _)| *word)) {
            Some(nearest) => format!("did you mean \"{nearest}\"?"),
            None => format!("write {}", allowed()),
        };
        Error::new_spanned(literal, format!("unknown value \"{word}\": {hint}"))
    })
}

fn string(value: &Expr) -> Result<LitStr> {
    match value {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Str(text) if text.suffix().is_empty() => Ok(text.clone()),
            _ => Err(Error::new_spanned(value, "expected a name in quotes")),
        },
        Expr::Path(_) | Expr::Macro(_) => Err(Error::new_spanned(
            value,
            "expected a name in quotes: an attribute is read before constants and macros have their values",
        )),
        _ => Err(Error::new_spanned(value, "expected a name in quotes")),
    }
}

fn is_none(value: &Expr) -> bool {
    matches!(value, Expr::Path(path) if path.path.is_ident("none"))
}
