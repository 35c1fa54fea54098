//! The attribute as it was written: each option with its value and where it stands. What one option alone can
//! get wrong is found here; what takes two is `check`'s.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::{Error, Expr, Lit, LitStr, Pat, Path, Result, Token};

use crate::errors::Errors;
use crate::suggest;
use crate::value::{self, Backoff, Declare, Dlx, ExchangeKind, Format, OrNone, Overflow, QueueType};

/// The attribute: one of two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Task,
    Subscriber,
}

impl Kind {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Subscriber => "subscriber",
        }
    }
}

/// The attributes that know an option.
const BOTH: &[Kind] = &[Kind::Task, Kind::Subscriber];
const TASK: &[Kind] = &[Kind::Task];
const SUBSCRIBER: &[Kind] = &[Kind::Subscriber];

/// Every option, with how it is written, and where.
const OPTIONS: &[(&str, &str, &[Kind])] = &[
    ("queue", r#"queue = "emails""#, BOTH),
    ("name", r#"name = "send_email""#, BOTH),
    ("aliases", r#"aliases = ["send_mail"]"#, TASK),
    ("payload", "payload = SendEmail", TASK),
    ("exchange", r#"exchange = "order.events""#, SUBSCRIBER),
    ("kind", r#"kind = "topic""#, SUBSCRIBER),
    ("binding", r#"binding = "order.europe.*""#, SUBSCRIBER),
    ("bindings", r#"bindings = "exact""#, SUBSCRIBER),
    ("retries", "retries = 5", BOTH),
    ("backoff", r#"backoff = "1s""#, BOTH),
    ("timeout", r#"timeout = "30s""#, BOTH),
    ("priority", "priority = 5", TASK),
    ("permanent", "permanent(MailError::BadAddress(_) | MailError::Banned)", BOTH),
    ("default", "default", TASK),
    ("reply", "reply = false", TASK),
    ("format", r#"format = "msgpack""#, TASK),
    ("version", "version = 2", TASK),
    ("upcast", "upcast = path::to_function", TASK),
    ("debug", "debug = false", TASK),
    ("crate", "crate = ::leveret", BOTH),
    ("dlx", r#"dlx = "emails.dlx""#, BOTH),
    ("dead_letter_queue", r#"dead_letter_queue = "emails.dead""#, BOTH),
    ("dead_letter_key", r#"dead_letter_key = "emails""#, BOTH),
    ("dead_letter_ttl", r#"dead_letter_ttl = "7d""#, BOTH),
    ("queue_type", r#"queue_type = "classic""#, BOTH),
    ("declare", r#"declare = "passive""#, BOTH),
    ("ttl", r#"ttl = "1h""#, BOTH),
    ("max_length", "max_length = 100000", BOTH),
    ("overflow", r#"overflow = "dead-letter""#, BOTH),
    ("max_priority", "max_priority = 10", BOTH),
    ("concurrency", "concurrency = 10", BOTH),
    ("prefetch", "prefetch = 10", BOTH),
    ("crash_limit", "crash_limit = 3", BOTH),
];

/// An option that was written, and could be read.
pub(crate) struct Written<T> {
    /// Its name, where it stands.
    pub(crate) key: Ident,
    /// The value that it was given.
    pub(crate) value: T,
    /// Where its value stands; for a flag, its name.
    pub(crate) span: Span,
}

/// Errors that a retry cannot mend: `permanent(PATTERN)` or `permanent(PATTERN if CONDITION)`.
pub(crate) struct Permanent {
    pub(crate) pattern: Pat,
    pub(crate) guard: Option<Expr>,
}

/// One binding of a subscriber's queue.
pub(crate) enum Binding {
    /// By routing key or pattern.
    Key(String),
    /// By headers: all of them, or with `any` one of them.
    Headers { any: bool, headers: Vec<(String, Lit)> },
}

/// The options in the parentheses of `#[task(..)]` or `#[subscriber(..)]`. An option is empty where it was not written, or was written
/// in a way that has been reported.
pub(crate) struct Attribute {
    pub(crate) kind_of: Kind,
    /// The name of every option that stands there, readable or not.
    keys: Vec<Ident>,
    pub(crate) name: Option<Written<String>>,
    /// Other names under which jobs come, as literals, each to be reported where it stands.
    pub(crate) aliases: Option<Written<Vec<LitStr>>>,
    pub(crate) payload: Option<Written<Ident>>,
    pub(crate) retries: Option<Written<u32>>,
    pub(crate) backoff: Option<Written<Backoff>>,
    /// In milliseconds.
    pub(crate) timeout: Option<Written<OrNone<u64>>>,
    pub(crate) priority: Option<Written<u8>>,
    pub(crate) permanent: Option<Written<Permanent>>,
    pub(crate) default: Option<Written<()>>,
    pub(crate) reply: Option<Written<bool>>,
    pub(crate) format: Option<Written<Format>>,
    pub(crate) version: Option<Written<u32>>,
    pub(crate) upcast: Option<Written<Path>>,
    pub(crate) debug: Option<Written<bool>>,
    pub(crate) krate: Option<Written<Path>>,
    pub(crate) exchange: Option<Written<String>>,
    pub(crate) exchange_kind: Option<Written<ExchangeKind>>,
    /// May be given several times.
    pub(crate) bindings: Vec<Written<Binding>>,
    /// `bindings = "exact"`
    pub(crate) exact: Option<Written<()>>,
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
    pub(crate) crash_limit: Option<Written<u32>>,
}

impl Attribute {
    fn new(kind_of: Kind) -> Self {
        Self {
            kind_of,
            keys: Vec::new(),
            name: None,
            aliases: None,
            payload: None,
            retries: None,
            backoff: None,
            timeout: None,
            priority: None,
            permanent: None,
            default: None,
            reply: None,
            format: None,
            version: None,
            upcast: None,
            debug: None,
            krate: None,
            exchange: None,
            exchange_kind: None,
            bindings: Vec::new(),
            exact: None,
            queue: None,
            dlx: None,
            dead_letter_queue: None,
            dead_letter_key: None,
            dead_letter_ttl: None,
            queue_type: None,
            declare: None,
            ttl: None,
            max_length: None,
            overflow: None,
            max_priority: None,
            concurrency: None,
            prefetch: None,
            crash_limit: None,
        }
    }

    /// Reads all options, and notes what is wrong with each.
    pub(crate) fn parse(kind_of: Kind, tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut attribute = Self::new(kind_of);
        for tokens in split_at_commas(tokens, errors) {
            if let Some(option) = errors.ok(Raw::parse.parse2(tokens)) {
                errors.ok(attribute.read(option));
            }
        }
        attribute
    }

    /// True if the option was written, readable or not.
    pub(crate) fn mentions(&self, option: &str) -> bool {
        self.keys.iter().any(|key| key == option)
    }

    fn read(&mut self, option: Raw) -> Result<()> {
        let key = option.key.to_string();
        let Some((.., kinds)) = OPTIONS.iter().find(|(name, ..)| *name == key) else {
            return Err(unknown(self.kind_of, &option.key, &key));
        };
        if !kinds.contains(&self.kind_of) {
            let (other, own) = (kinds[0].as_str(), self.kind_of.as_str());
            let why = match (key.as_str(), self.kind_of) {
                ("aliases" | "default", Kind::Subscriber) => ", which takes all that its queue brings",
                ("reply", Kind::Subscriber) => ", which never replies",
                _ => "",
            };
            let words = format!("`{key}` is an option of `{other}`, and none of `{own}`{why}: remove it");
            return Err(Error::new_spanned(&option.key, words));
        }
        if self.mentions(&key) && key != "binding" {
            return Err(Error::new_spanned(
                &option.key,
                format!("`{key}` is given twice: remove one of them"),
            ));
        }
        self.keys.push(option.key.clone());
        match key.as_str() {
            "name" => assign(&mut self.name, option, value::task_name),
            "aliases" => assign(&mut self.aliases, option, value::aliases),
            "payload" => assign(&mut self.payload, option, value::type_name),
            "retries" => assign(&mut self.retries, option, |value| value::integer(value, 0, u32::MAX)),
            "backoff" => assign(&mut self.backoff, option, value::backoff),
            "timeout" => assign(&mut self.timeout, option, value::timeout),
            "priority" => assign(&mut self.priority, option, |value| value::integer(value, 0, u8::MAX)),
            "permanent" => parenthesised(&mut self.permanent, option, Permanent::parse),
            "default" => flag(&mut self.default, option),
            "reply" => assign(&mut self.reply, option, value::boolean),
            "format" => assign(&mut self.format, option, value::format),
            "version" => assign(&mut self.version, option, |value| value::integer(value, 1, u32::MAX)),
            "upcast" => assign_path(
                &mut self.upcast,
                option,
                "expected the path of a function, as in `upcast = add_currency`",
            ),
            "debug" => assign(&mut self.debug, option, value::boolean),
            "crate" => {
                let expected = "expected the path of the crate, as in `crate = ::jobs`";
                assign_path(&mut self.krate, option, expected)?;
                // A subscriber has no payload, whose derives serde is told of the crate in quotes.
                let first = self.krate.as_ref().and_then(|krate| krate.value.segments.first().cloned());
                match first {
                    Some(first) if self.kind_of == Kind::Task && first.ident == "$crate" => {
                        // So that the payload beside this mistake is not one more.
                        self.krate = None;
                        let words = "serde cannot follow `$crate`: name the crate, as in `crate = ::jobs`";
                        Err(Error::new_spanned(first, words))
                    }
                    _ => Ok(()),
                }
            }
            "exchange" => assign(&mut self.exchange, option, value::source_exchange),
            "kind" => assign(&mut self.exchange_kind, option, value::exchange_kind),
            "binding" => {
                let mut binding = None;
                match option.form {
                    Form::Parenthesised(_) => parenthesised(&mut binding, option, Binding::parse)?,
                    _ => assign(&mut binding, option, |value| value::binding_key(value).map(Binding::Key))?,
                }
                self.bindings.extend(binding);
                Ok(())
            }
            "bindings" => assign(&mut self.exact, option, value::exact),
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
            // At a hundred returns a quorum queue makes the job a dead letter by itself.
            "crash_limit" => assign(&mut self.crash_limit, option, |value| value::integer(value, 1, 100)),
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
        let example = OPTIONS.iter().find(|(name, ..)| *name == key).map_or("", |(_, example, _)| *example);
        let message = match (&self.form, key == "default") {
            (_, true) => "`default` is a flag and takes no value: write `default`".to_owned(),
            (Form::Flag, _) => format!("`{key}` needs a value, as in `{example}`"),
            _ => format!("`{key}` is written `{example}`"),
        };
        Error::new_spanned(&self.key, message)
    }
}

impl Binding {
    /// Reads `region = "europe", express = true`, with `any,` before it where one is enough.
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut any = false;
        let mut headers: Vec<(String, Lit)> = Vec::new();
        while !input.is_empty() {
            let name = input.call(Ident::parse_any)?;
            if input.peek(Token![=]) {
                input.parse::<Token![=]>()?;
                let value: Lit = input.parse().map_err(|error| {
                    Error::new(error.span(), "expected text in quotes, a whole number, or `true` or `false`")
                })?;
                if !matches!(value, Lit::Str(_) | Lit::Bool(_)) && !is_i64(&value) {
                    let words = "expected text in quotes, a whole number, or `true` or `false`";
                    return Err(Error::new_spanned(value, words));
                }
                let name = name.unraw().to_string();
                headers.push((name, value));
            } else if name == "any" && headers.is_empty() {
                any = true;
            } else {
                let words = format!("a header is written `{name} = \"value\"`");
                return Err(Error::new_spanned(name, words));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self::Headers { any, headers })
    }
}

fn is_i64(value: &Lit) -> bool {
    matches!(value, Lit::Int(number) if number.suffix().is_empty() && number.base10_parse::<i64>().is_ok())
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
fn assign_path(slot: &mut Option<Written<Path>>, option: Raw, expected: &str) -> Result<()> {
    let Form::Assigned(tokens) = &option.form else { return Err(option.wrong_form()) };
    if tokens.is_empty() {
        return Err(Raw { key: option.key, form: Form::Flag }.wrong_form());
    }
    let path = |input: ParseStream<'_>| {
        let path = Path::parse_mod_style(input).map_err(|error| Error::new(error.span(), expected))?;
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

fn unknown(kind: Kind, key: &Ident, name: &str) -> Error {
    let known = || OPTIONS.iter().filter(|(.., kinds)| kinds.contains(&kind)).map(|(name, ..)| *name);
    let synonym = suggest::synonym(name).filter(|ours| known().any(|known| known == *ours));
    let hint = if let Some(meant) = synonym.or_else(|| suggest::nearest(name, known())) {
        let example =
            OPTIONS.iter().find(|(known, ..)| *known == meant).map_or("", |(_, example, _)| *example);
        match synonym {
            Some(_) => format!("did you mean `{meant}`, as in `{example}`?"),
            None => format!("did you mean `{meant}`?"),
        }
    } else if let Some(why) = suggest::needless(name) {
        why.to_owned()
    } else {
        format!("the options are {}", known().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
    };
    let kind = kind.as_str();
    Error::new_spanned(key, format!("unknown `{kind}` option `{name}`: {hint}"))
}

/// One span over all tokens, where the compiler can join them; else the first token's.
fn span_of(tokens: impl ToTokens) -> Span {
    syn::spanned::Spanned::span(&tokens.into_token_stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that the editor shows at `#[task]`.
    const DOCS: &str = include_str!("task.md");

    #[test]
    fn words_of_others_lead_to_options() {
        let hint = |word: &str| unknown(Kind::Task, &Ident::new(word, Span::call_site()), word).to_string();

        assert!(hint("max_retries").ends_with("did you mean `retries`, as in `retries = 5`?"));
        assert!(hint("dead_letter_exchange").contains("did you mean `dlx`"));
        assert!(hint("durable").contains("durable and jobs persistent without it"));
        // Not what it is a letter or two away from, `dead_letter_ttl`.
        assert!(hint("dlq").contains("did you mean `dead_letter_queue`"));
    }

    #[test]
    fn docs_of_task_list_every_option() {
        for (name, _, kinds) in OPTIONS {
            let row = |end| DOCS.contains(&format!("\n| `{name}{end}"));
            let is_listed = row(" = ") || row("(") || row("` |");
            assert_eq!(is_listed, kinds.contains(&Kind::Task), "`{name}` in task.md");
        }
    }
}
