//! The attribute as it was written: each option with its value and where it stands. What one option alone can
//! get wrong is found here; what takes two is `check`'s.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::{Error, Expr, Pat, Path, Result, Token};

use crate::errors::Errors;
use crate::suggest;
use crate::value::{self, Backoff, Declare, Dlx, OrNone, Overflow, QueueType};

/// Every option, with how it is written.
const OPTIONS: &[(&str, &str)] = &[
    ("queue", r#"queue = "emails""#),
    ("name", r#"name = "send_email""#),
    ("payload", "payload = SendEmail"),
    ("retries", "retries = 5"),
    ("backoff", r#"backoff = "1s""#),
    ("timeout", r#"timeout = "30s""#),
    ("priority", "priority = 5"),
    ("permanent", "permanent(MailError::BadAddress(_) | MailError::Banned)"),
    ("default", "default"),
    ("debug", "debug = false"),
    ("crate", "crate = ::leveret"),
    ("dlx", r#"dlx = "emails.dlx""#),
    ("dead_letter_queue", r#"dead_letter_queue = "emails.dead""#),
    ("dead_letter_key", r#"dead_letter_key = "emails""#),
    ("dead_letter_ttl", r#"dead_letter_ttl = "7d""#),
    ("queue_type", r#"queue_type = "classic""#),
    ("declare", r#"declare = "passive""#),
    ("ttl", r#"ttl = "1h""#),
    ("max_length", "max_length = 100000"),
    ("overflow", r#"overflow = "dead-letter""#),
    ("max_priority", "max_priority = 10"),
    ("concurrency", "concurrency = 10"),
    ("prefetch", "prefetch = 10"),
];

/// An option that was written, and could be read.
pub(crate) struct Written<T> {
    /// Its name, where it stands.
    pub(crate) key: Ident,
    /// What it was given.
    pub(crate) value: T,
    /// Where its value stands; for a flag, its name.
    pub(crate) span: Span,
}

/// Errors that a retry cannot mend: `permanent(PATTERN)` or `permanent(PATTERN if CONDITION)`.
pub(crate) struct Permanent {
    pub(crate) pattern: Pat,
    pub(crate) guard: Option<Expr>,
}

/// What stands in the parentheses of `#[task(..)]`. An option is empty where it was not written, or was written
/// in a way that has been reported.
#[derive(Default)]
pub(crate) struct Attribute {
    /// The name of every option that stands there, readable or not.
    keys: Vec<Ident>,
    pub(crate) name: Option<Written<String>>,
    pub(crate) payload: Option<Written<Ident>>,
    pub(crate) retries: Option<Written<u32>>,
    pub(crate) backoff: Option<Written<Backoff>>,
    /// In milliseconds.
    pub(crate) timeout: Option<Written<OrNone<u64>>>,
    pub(crate) priority: Option<Written<u8>>,
    pub(crate) permanent: Option<Written<Permanent>>,
    pub(crate) default: Option<Written<()>>,
    pub(crate) debug: Option<Written<bool>>,
    pub(crate) krate: Option<Written<Path>>,
    pub(crate) queue: Option<Written<String>>,
    pub(crate) dlx: Option<Written<Dlx>>,
    pub(crate) dead_letter_queue: Option<Written<String>>,
    pub(crate) dead_letter_key: Option<Written<String>>,
    /// In milliseconds.
    pub(crate) dead_letter_ttl: Option<Written<u32>>,
    pub(crate) queue_type: Option<Written<QueueType>>,
    pub(crate) declare: Option<Written<Declare>>,
    /// In milliseconds.
    pub(crate) ttl: Option<Written<u32>>,
    pub(crate) max_length: Option<Written<u64>>,
    pub(crate) overflow: Option<Written<Overflow>>,
    pub(crate) max_priority: Option<Written<u8>>,
    pub(crate) concurrency: Option<Written<u16>>,
    pub(crate) prefetch: Option<Written<u16>>,
}

impl Attribute {
    /// Reads all options, and notes what is wrong with each.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut attribute = Self::default();
        for tokens in split_at_commas(tokens, errors) {
            if let Some(option) = errors.ok(Raw::parse.parse2(tokens)) {
                errors.ok(attribute.read(option));
            }
        }
        attribute
    }

    /// Whether the option stands there, readable or not.
    pub(crate) fn mentions(&self, option: &str) -> bool {
        self.keys.iter().any(|key| key == option)
    }

    fn read(&mut self, option: Raw) -> Result<()> {
        let key = option.key.to_string();
        if OPTIONS.iter().all(|(name, _)| *name != key) {
            return Err(unknown(&option.key, &key));
        }
        if self.mentions(&key) {
            return Err(Error::new_spanned(
                &option.key,
                format!("`{key}` is given twice: remove one of them"),
            ));
        }
        self.keys.push(option.key.clone());
        match key.as_str() {
            "name" => assign(&mut self.name, option, value::task_name),
            "payload" => assign(&mut self.payload, option, value::type_name),
            "retries" => assign(&mut self.retries, option, |value| value::integer(value, 0, u32::MAX)),
            "backoff" => assign(&mut self.backoff, option, value::backoff),
            "timeout" => assign(&mut self.timeout, option, value::timeout),
            "priority" => assign(&mut self.priority, option, |value| value::integer(value, 0, u8::MAX)),
            "permanent" => parenthesised(&mut self.permanent, option, Permanent::parse),
            "default" => flag(&mut self.default, option),
            "debug" => assign(&mut self.debug, option, value::boolean),
            "crate" => assign_path(&mut self.krate, option),
            "queue" => assign(&mut self.queue, option, value::amqp_name),
            "dlx" => assign(&mut self.dlx, option, value::dlx),
            "dead_letter_queue" => assign(&mut self.dead_letter_queue, option, value::amqp_name),
            "dead_letter_key" => assign(&mut self.dead_letter_key, option, value::amqp_name),
            "dead_letter_ttl" => assign(&mut self.dead_letter_ttl, option, value::time_to_live),
            "queue_type" => assign(&mut self.queue_type, option, value::queue_type),
            "declare" => assign(&mut self.declare, option, value::declare),
            "ttl" => assign(&mut self.ttl, option, value::time_to_live),
            // AMQP's integers are signed.
            "max_length" => {
                assign(&mut self.max_length, option, |value| value::integer(value, 1, i64::MAX as u64))
            }
            "overflow" => assign(&mut self.overflow, option, value::overflow),
            "max_priority" => {
                assign(&mut self.max_priority, option, |value| value::integer(value, 1, u8::MAX))
            }
            "concurrency" => {
                assign(&mut self.concurrency, option, |value| value::integer(value, 1, u16::MAX))
            }
            "prefetch" => assign(&mut self.prefetch, option, |value| value::integer(value, 1, u16::MAX)),
            _ => unreachable!("`{key}` is in OPTIONS"),
        }
    }
}

/// One option before its value has been looked at.
struct Raw {
    key: Ident,
    form: Form,
}

/// How an option is written.
enum Form {
    /// `key`
    Flag,
    /// `key = ..`
    Assigned(TokenStream),
    /// `key(..)`
    Parenthesised(Group),
}

impl Raw {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if !input.peek(syn::Ident::peek_any) {
            return Err(input.error(r#"expected an option, as in `queue = "emails"`"#));
        }
        let key = input.call(Ident::parse_any)?;
        if input.is_empty() {
            return Ok(Self { key, form: Form::Flag });
        }
        if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            return Ok(Self { key, form: Form::Assigned(input.parse()?) });
        }
        if input.peek(syn::token::Paren) {
            let group = input.parse()?;
            expect_end(input)?;
            return Ok(Self { key, form: Form::Parenthesised(group) });
        }
        Err(input.error(format!("expected `,` or `=` after `{key}`")))
    }

    /// The option is known, but not written in this form.
    fn wrong_form(&self) -> Error {
        let key = self.key.to_string();
        let example = OPTIONS.iter().find(|(name, _)| *name == key).map_or("", |(_, example)| *example);
        let message = match (&self.form, key == "default") {
            (_, true) => "`default` is a flag and takes no value: write `default`".to_owned(),
            (Form::Flag, _) => format!("`{key}` needs a value, as in `{example}`"),
            _ => format!("`{key}` is written `{example}`"),
        };
        Error::new_spanned(&self.key, message)
    }
}

impl Permanent {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let pattern = Pat::parse_multi_with_leading_vert(input)?;
        let guard = if input.peek(Token![if]) {
            input.parse::<Token![if]>()?;
            Some(input.parse()?)
        } else {
            None
        };
        if !input.is_empty() {
            return Err(input.error("unexpected token: separate several patterns by `|`"));
        }
        if let (None, Some(catch_all)) = (&guard, catch_all(&pattern)) {
            return Err(catch_all);
        }
        Ok(Self { pattern, guard })
    }
}

/// Refuses `_` or a bare name, alone or as an alternative. A bare name may be meant as a variant, but one that is
/// misspelt or not imported binds every error.
fn catch_all(pattern: &Pat) -> Option<Error> {
    match pattern {
        Pat::Wild(_) => Some(Error::new_spanned(
            pattern,
            "this matches every error: name some, as in `permanent(MailError::Banned)`; a task that is never \
             tried again says `retries = 0`",
        )),
        Pat::Ident(name) => match &name.subpat {
            Some((_, pattern)) => catch_all(pattern),
            None => {
                let name = &name.ident;
                Some(Error::new_spanned(
                    name,
                    format!(
                        "a bare `{name}` may match every error: write the variant with its type, as in \
                         `MailError::{name}`, or a unit struct as `{name} {{}}`"
                    ),
                ))
            }
        },
        Pat::Or(or) => or.cases.iter().find_map(catch_all),
        Pat::Paren(paren) => catch_all(&paren.pat),
        _ => None,
    }
}

/// Splits at commas before anything is parsed, so that a bad option does not hide the next one.
fn split_at_commas(tokens: TokenStream, errors: &mut Errors) -> Vec<TokenStream> {
    let mut options = Vec::new();
    let mut option = TokenStream::new();
    for token in tokens {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if option.is_empty() {
                    errors.on(comma, "expected an option before this comma");
                }
                options.push(std::mem::take(&mut option));
            }
            token => option.extend([token]),
        }
    }
    options.push(option);
    options.retain(|option| !option.is_empty());
    options
}

/// Reads `key = VALUE`.
fn assign<T>(slot: &mut Option<Written<T>>, option: Raw, read: impl Fn(&Expr) -> Result<T>) -> Result<()> {
    let Form::Assigned(tokens) = &option.form else { return Err(option.wrong_form()) };
    if tokens.is_empty() {
        return Err(Raw { key: option.key, form: Form::Flag }.wrong_form());
    }
    let expression = |input: ParseStream<'_>| {
        let value: Expr = input.parse()?;
        expect_end(input)?;
        Ok(value)
    };
    let expression = expression.parse2(tokens.clone())?;
    let value = read(value::ungrouped(&expression))?;
    *slot = Some(Written { key: option.key, value, span: span_of(&expression) });
    Ok(())
}

/// Reads `key = PATH`, where the path may begin with `crate` or `::`.
fn assign_path(slot: &mut Option<Written<Path>>, option: Raw) -> Result<()> {
    let Form::Assigned(tokens) = &option.form else { return Err(option.wrong_form()) };
    if tokens.is_empty() {
        return Err(Raw { key: option.key, form: Form::Flag }.wrong_form());
    }
    let path = |input: ParseStream<'_>| {
        let path = Path::parse_mod_style(input).map_err(|error| {
            Error::new(error.span(), "expected the path of the crate, as in `crate = ::jobs`")
        })?;
        expect_end(input)?;
        Ok(path)
    };
    let path = path.parse2(tokens.clone())?;
    *slot = Some(Written { key: option.key, span: span_of(&path), value: path });
    Ok(())
}

/// Reads `key(..)`.
fn parenthesised<T>(
    slot: &mut Option<Written<T>>,
    option: Raw,
    read: impl Fn(ParseStream<'_>) -> Result<T>,
) -> Result<()> {
    let Form::Parenthesised(group) = &option.form else { return Err(option.wrong_form()) };
    if group.stream().is_empty() {
        return Err(option.wrong_form());
    }
    let span = group.span();
    let value = read.parse2(group.stream())?;
    *slot = Some(Written { key: option.key, value, span });
    Ok(())
}

/// Reads `key` alone.
fn flag(slot: &mut Option<Written<()>>, option: Raw) -> Result<()> {
    let Form::Flag = option.form else { return Err(option.wrong_form()) };
    let span = option.key.span();
    *slot = Some(Written { key: option.key, value: (), span });
    Ok(())
}

fn expect_end(input: ParseStream<'_>) -> Result<()> {
    if input.is_empty() { Ok(()) } else { Err(input.error("expected `,` before this")) }
}

fn unknown(key: &Ident, name: &str) -> Error {
    let known = || OPTIONS.iter().map(|(name, _)| *name);
    let hint = match suggest::nearest(name, known()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!(
            "the options are {}",
            known().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    Error::new_spanned(key, format!("unknown `task` option `{name}`: {hint}"))
}

/// One span over all tokens, where the compiler can join them; else the first token's.
fn span_of(tokens: impl ToTokens) -> Span {
    syn::spanned::Spanned::span(&tokens.into_token_stream())
}
