//! Checks that need more than one option: a missing option, a contradiction, an option without effect.

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt as _;
use syn::{ReturnType, Signature};

use crate::attr::{Attribute, Binding, Kind, Written};
use crate::errors::Errors;
use crate::value::{Declare, Dlx, ExchangeKind, OrNone, QueueType};

/// Notes all contradictions.
pub(crate) fn check(attribute: &Attribute, signature: &Signature, errors: &mut Errors) {
    queue(attribute, errors);
    dead_letters(attribute, errors);
    arguments(attribute, errors);
    priorities(attribute, errors);
    slots(attribute, errors);
    retries(attribute, errors);
    versions(attribute, errors);
    aliases(attribute, signature, errors);
    default_exchange(attribute, errors);
    bindings(attribute, errors);
    if let (Some(permanent), ReturnType::Default) = (&attribute.permanent, &signature.output) {
        errors.on(
            &permanent.key,
            "`permanent` tells errors apart, and this function returns none: let it return a `Result`",
        );
    }
}

fn queue(attribute: &Attribute, errors: &mut Errors) {
    if !attribute.mentions("queue") {
        errors.at(
            Span::call_site(),
            match attribute.kind_of {
                Kind::Task => {
                    "`queue` is missing: name the queue that the jobs go to, as in `#[task(queue = \"emails\")]`"
                }
                Kind::Subscriber => {
                    "`queue` is missing: name the queue that keeps this service's copies of the events, as in \
                     `#[subscriber(queue = \"order.events.email\")]`"
                }
            },
        );
    }
}

fn dead_letters(attribute: &Attribute, errors: &mut Errors) {
    let Attribute { dlx, dead_letter_queue, dead_letter_key, dead_letter_ttl, queue, .. } = attribute;
    if let Some(Written { value: Dlx::None, .. }) = dlx {
        for key in [key(dead_letter_queue), key(dead_letter_key), key(dead_letter_ttl)].into_iter().flatten()
        {
            errors.on(
                key,
                format!(
                    "`{key}` has no effect with `dlx = none`, which drops the dead letters: remove one of \
                 the two"
                ),
            );
        }
        return;
    }
    let Some(queue) = queue else { return };
    match dead_letter_queue {
        Some(dead) if dead.value == queue.value => {
            errors.at(
                dead.span,
                "the queue would keep its own dead letters, and work them for ever: name another queue",
            );
        }
        None if !attribute.mentions("dead_letter_queue") && queue.value.len() + ".dead".len() > 255 => {
            errors.at(
                queue.span,
                "with `.dead` after it, this name is too long for the dead-letter queue: shorten it, \
                 or name that queue with `dead_letter_queue`",
            );
        }
        _ => {}
    }
}

/// Options that declare a queue, on one that is used as it is.
fn arguments(attribute: &Attribute, errors: &mut Errors) {
    let Attribute { ttl, max_length, overflow, max_priority, dead_letter_queue, dead_letter_ttl, .. } =
        attribute;
    if is_passive(attribute) {
        for key in [key(ttl), key(max_length), key(overflow), key(max_priority)].into_iter().flatten() {
            errors.on(
                key,
                format!(
                    "`{key}` has no effect with `declare = \"passive\"`, which uses the queue as it is: \
                 remove one of the two"
                ),
            );
        }
        if let (Some(_), Some(ttl)) = (dead_letter_queue, dead_letter_ttl) {
            errors.on(
                &ttl.key,
                "`dead_letter_ttl` has no effect: with `declare = \"passive\"` a dead-letter queue \
                 that is named is used as it is",
            );
        }
        return;
    }
    if let Some(overflow) = overflow {
        if !attribute.mentions("max_length") {
            errors.on(
                &overflow.key,
                "`overflow` says what a full queue does, and this one is never full: add `max_length = …`",
            );
        }
        if matches!(
            (&attribute.dlx, overflow.value),
            (Some(Written { value: OrNone::None, .. }), crate::value::Overflow::DeadLetter)
        ) {
            errors.at(
                overflow.span,
                "with `dlx = none` an overflowing job would be dropped unseen: name a `dlx`, or leave \
                 `overflow` out to refuse the publisher",
            );
        }
    }
}

fn priorities(attribute: &Attribute, errors: &mut Errors) {
    let Attribute { priority, max_priority, .. } = attribute;
    if is_passive(attribute) {
        return;
    }
    if !is_classic(attribute) {
        // Where `queue_type` could not be read, it may be meant as classic.
        if let (Some(max), true) = (max_priority, quorum_is_meant(attribute)) {
            errors.on(
                &max.key,
                "a quorum queue needs no `max_priority`: remove it, or add `queue_type = \"classic\"`",
            );
        }
        return;
    }
    match (priority, max_priority) {
        (Some(priority), Some(max)) if priority.value > max.value => {
            errors.at(
                priority.span,
                format!(
                    "a priority above the queue's `max_priority = {}` counts as that: lower it, or raise \
                 the maximum",
                    max.value
                ),
            );
        }
        (Some(priority), None) if !attribute.mentions("max_priority") => {
            errors.on(
                &priority.key,
                "a classic queue without `max_priority` ignores priorities: add `max_priority = 10`, say",
            );
        }
        _ => {}
    }
}

fn slots(attribute: &Attribute, errors: &mut Errors) {
    let Some(prefetch) = &attribute.prefetch else { return };
    let concurrency = match &attribute.concurrency {
        Some(concurrency) => concurrency.value,
        None if attribute.mentions("concurrency") => return,
        None => 1,
    };
    if prefetch.value < concurrency {
        errors.at(
            prefetch.span,
            format!(
                "a worker that holds {} jobs cannot run {concurrency} at once: raise `prefetch`, or leave \
             it out to hold as many as run",
                prefetch.value
            ),
        );
    }
}

fn retries(attribute: &Attribute, errors: &mut Errors) {
    if let (Some(Written { value: 0, .. }), Some(backoff)) = (&attribute.retries, &attribute.backoff) {
        errors.on(&backoff.key, "`backoff` has no effect with `retries = 0`: remove one of the two");
    }
}

fn versions(attribute: &Attribute, errors: &mut Errors) {
    let Some(upcast) = &attribute.upcast else { return };
    match &attribute.version {
        Some(Written { value: 1, span, .. }) => errors.at(
            *span,
            "there is no version before the first that `upcast` could read: raise `version`, or remove `upcast`",
        ),
        None if !attribute.mentions("version") => errors.on(
            &upcast.key,
            "`upcast` reads payloads of older versions, and this is the first: add `version = 2`",
        ),
        _ => {}
    }
}

/// Aliases that clash with each other or with the task's own name. The worker finds those of other tasks when it starts.
fn aliases(attribute: &Attribute, signature: &Signature, errors: &mut Errors) {
    let Some(aliases) = &attribute.aliases else { return };
    let own = match &attribute.name {
        Some(name) => name.value.clone(),
        // Where it could not be read, it has been reported.
        None if attribute.mentions("name") => String::new(),
        None => signature.ident.unraw().to_string(),
    };
    let mut seen: Vec<String> = Vec::new();
    for alias in &aliases.value {
        let name = alias.value();
        if name == own {
            errors.on(alias, format!("`{name}` is the task's own name: an alias is another one"));
        } else if seen.contains(&name) {
            errors.on(alias, format!("`{name}` is listed twice: remove one of them"));
        }
        seen.push(name);
    }
}

/// Options of an exchange, on a queue that takes messages by its name.
fn default_exchange(attribute: &Attribute, errors: &mut Errors) {
    let Some(Written { value: exchange, .. }) = &attribute.exchange else { return };
    if !exchange.is_empty() {
        return;
    }
    let binding = attribute.bindings.first().map(|binding| &binding.key);
    for key in [key(&attribute.exchange_kind), binding, key(&attribute.exact)].into_iter().flatten() {
        let words = format!(
            "`{key}` has no effect with `exchange = \"\"`, AMQP's default exchange, which routes by the queue's name: \
             remove one of the two"
        );
        errors.on(key, words);
    }
}

/// Checks the bindings against the kind of exchange, where it is written. Where only the event's type knows the kind,
/// a constant checks the same.
fn bindings(attribute: &Attribute, errors: &mut Errors) {
    if matches!(&attribute.exchange, Some(Written { value, .. }) if value.is_empty()) {
        // They have been reported.
        return;
    }
    let kind = attribute.exchange_kind.as_ref().map(|kind| kind.value);
    for binding in &attribute.bindings {
        match (&binding.value, kind) {
            (_, Some(ExchangeKind::Fanout)) => errors.on(
                &binding.key,
                "`binding` has no effect on a fanout exchange, which sends everything to everybody: remove it",
            ),
            (Binding::Key(_), Some(ExchangeKind::Headers)) => errors.at(
                binding.span,
                "a headers exchange ignores keys: write `binding(region = \"europe\")`",
            ),
            (Binding::Headers { .. }, Some(_)) if kind != Some(ExchangeKind::Headers) => {
                errors.at(binding.span, "only a headers exchange looks at headers: write `binding = \"key\"`");
            }
            (Binding::Key(key), Some(ExchangeKind::Topic)) => pattern(key, binding.span, "", errors),
            (Binding::Key(key), None) if !attribute.mentions("kind") => {
                let literally = "; on a direct exchange, where a key is literal, add `kind = \"direct\"`";
                pattern(key, binding.span, literally, errors);
            }
            _ => {}
        }
    }
}

/// RabbitMQ takes no more in one binding since 4.3.5.
const MAX_HASHES: usize = 2;

fn pattern(key: &str, span: Span, otherwise: &str, errors: &mut Errors) {
    let hashes = key.split('.').filter(|word| *word == "#").count();
    if hashes > MAX_HASHES {
        errors.at(
            span,
            format!(
                "`{key}` has {hashes} `#`, and RabbitMQ takes at most {MAX_HASHES} in one binding (from 4.3.5 on): use `*` \
                 where one word is meant, or several bindings{otherwise}"
            ),
        );
    }
    let is_partial = |word: &&str| word.len() > 1 && word.contains(['*', '#']);
    if let Some(word) = key.split('.').find(is_partial) {
        errors.at(
            span,
            format!(
                "`{word}` is no pattern: `*` stands for one whole word and `#` for any number of words, with dots \
                 around them{otherwise}"
            ),
        );
    }
}

fn is_passive(attribute: &Attribute) -> bool {
    matches!(attribute.declare, Some(Written { value: Declare::Passive, .. }))
}

fn is_classic(attribute: &Attribute) -> bool {
    matches!(attribute.queue_type, Some(Written { value: QueueType::Classic, .. }))
}

fn quorum_is_meant(attribute: &Attribute) -> bool {
    attribute.queue_type.is_some() || !attribute.mentions("queue_type")
}

fn key<T>(option: &Option<Written<T>>) -> Option<&Ident> {
    option.as_ref().map(|option| &option.key)
}
