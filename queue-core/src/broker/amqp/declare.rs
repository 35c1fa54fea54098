//! Decides what a declaration comes to, from what exists and what is declared: plain data, which a broker carries out in its
//! own way. One decision for each exchange, queue and binding, in the order of the topology, since each may depend on those
//! before it; what has been carried out before a refusal stays.

use super::conflict::{
    check_name, exchange_redeclared, locked, missing_exchange, missing_queue, queue_redeclared,
};
use super::pattern::check_pattern;
use super::rules::QueueRules;
use crate::error::{Error, ErrorKind, Result};
use crate::routing::BindError;
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl};

/// The steps that the declaration of an exchange takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeStep {
    /// It is there.
    Keep,
    /// It is to be made.
    Create,
}

/// The steps that the declaration of a queue takes.
#[derive(Debug)]
pub(crate) enum QueueStep {
    /// It is there, and asked about only.
    Keep,
    /// It is there, and declared once more: its time without use begins anew.
    Renew,
    /// It is to be made, with these rules.
    Create(QueueRules),
}

/// A queue that exists under the name that is declared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExistingQueue<'a> {
    pub(crate) decl: &'a QueueDecl,
    /// It is exclusive to another client.
    pub(crate) is_locked: bool,
}

/// Decides about an exchange, of which the existing one has this type and durability.
///
/// # Errors
/// If it exists with others, is missing and only asked about, or may not have this name.
pub(crate) fn declare_exchange(
    existing: Option<(ExchangeKind, bool)>,
    wanted: &ExchangeDecl,
) -> Result<ExchangeStep> {
    // The default exchange always exists, and is never declared.
    if wanted.name.is_empty() && wanted.passive {
        return Ok(ExchangeStep::Keep);
    }
    match existing {
        Some(_) if wanted.passive => Ok(ExchangeStep::Keep),
        Some((kind, durable)) => exchange_redeclared(kind, durable, wanted).map(|()| ExchangeStep::Keep),
        None if wanted.passive => Err(missing_exchange(&wanted.name)),
        None => check_name("exchange", &wanted.name).map(|()| ExchangeStep::Create),
    }
}

/// Decides about a queue. `broker` is the scheme of its URL.
///
/// # Errors
/// If it exists with other options or is another client's, is missing and only asked about, or may not have this name or
/// these arguments.
pub(crate) fn declare_queue(
    existing: Option<ExistingQueue<'_>>,
    wanted: &QueueDecl,
    broker: &'static str,
) -> Result<QueueStep> {
    match existing {
        Some(ExistingQueue { is_locked: true, .. }) => Err(locked(&wanted.name)),
        Some(_) if wanted.passive => Ok(QueueStep::Keep),
        Some(ExistingQueue { decl, .. }) => queue_redeclared(decl, wanted).map(|()| QueueStep::Renew),
        None if wanted.passive => Err(missing_queue(&wanted.name)),
        None => {
            check_name("queue", &wanted.name)?;
            let rules = QueueRules::read(wanted)?;
            if wanted.arguments.get("x-single-active-consumer").is_some() {
                tracing::warn!(
                    queue = &*wanted.name,
                    "`{broker}:` delivers to all consumers, not to a single active one"
                );
            }
            Ok(QueueStep::Create(rules))
        }
    }
}

/// Decides whether a queue may be bound like this to an exchange of this type, which is `None` if there is no such
/// exchange. Only for new bindings: those of a file stay as an earlier version made them.
///
/// # Errors
/// If it is the default exchange, or the exchange cannot use the pattern.
pub(crate) fn check_binding(exchange: Option<ExchangeKind>, binding: &BindingDecl) -> Result<()> {
    if binding.exchange.is_empty() {
        return Err(Error::new(
            ErrorKind::Topology,
            format!(
                "queue `{}` cannot be bound to the default exchange: it reaches every queue by its name",
                binding.queue
            ),
        ));
    }
    exchange.map_or(Ok(()), |kind| check_pattern(kind, binding))
}

/// The reason why a binding could not be made.
pub(crate) fn binding_refused(binding: &BindingDecl, error: BindError) -> Error {
    match error {
        BindError::NoExchange(exchange) => missing_exchange(&exchange),
        BindError::BadMatch(error) => Error::new(
            ErrorKind::Topology,
            format!("queue `{}` cannot be bound to exchange `{}`", binding.queue, binding.exchange),
        )
        .with_source(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing(decl: &QueueDecl, is_locked: bool) -> Option<ExistingQueue<'_>> {
        Some(ExistingQueue { decl, is_locked })
    }

    #[test]
    fn passive_declaration_makes_nothing() {
        let (mut queue, exchange) =
            (QueueDecl::new("mail"), ExchangeDecl::new("events", ExchangeKind::Topic));
        queue.passive = true;
        let asked = ExchangeDecl { passive: true, ..exchange };

        let there = QueueDecl::new("mail").argument("x-message-ttl", 5_i64);
        assert!(matches!(declare_queue(existing(&there, false), &queue, "memory"), Ok(QueueStep::Keep)));
        assert!(declare_queue(None, &queue, "memory").is_err());
        let other = (ExchangeKind::Fanout, false);
        assert_eq!(declare_exchange(Some(other), &asked).unwrap(), ExchangeStep::Keep);
        assert!(declare_exchange(None, &asked).is_err());
    }

    #[test]
    fn queue_is_made_once_and_renewed_from_then_on() {
        let queue = QueueDecl::new("mail");

        assert!(matches!(declare_queue(None, &queue, "memory"), Ok(QueueStep::Create(_))));
        assert!(matches!(declare_queue(existing(&queue, false), &queue, "memory"), Ok(QueueStep::Renew)));
    }

    #[test]
    fn queue_of_another_client_is_refused_whatever_is_declared() {
        let mine = QueueDecl::new("mine").exclusive();
        let asked = QueueDecl { passive: true, ..mine.clone() };

        for wanted in [&mine, &asked] {
            let refused = declare_queue(existing(&mine, true), wanted, "memory").unwrap_err();
            assert!(refused.to_string().contains("exclusive to another client"), "{refused}");
        }
    }
}
