//! How many wildcards a binding to a topic exchange may have.

use crate::error::{Error, ErrorKind};
use crate::topology::{BindingDecl, ExchangeKind};

/// RabbitMQ takes no more since 4.3.5. Earlier versions know no limit; our own brokers keep this one, so that a binding
/// that works on them works on every server.
const MAX_HASHES: usize = 2;

/// Checks that every supported RabbitMQ takes the binding to an exchange of this kind.
///
/// # Errors
/// [`Topology`](ErrorKind::Topology), which names the binding, the limit and the remedy.
pub(crate) fn check_pattern(kind: ExchangeKind, binding: &BindingDecl) -> Result<(), Error> {
    let BindingDecl { exchange, queue, routing_key, .. } = binding;
    let hashes = routing_key.split('.').filter(|word| *word == "#").count();
    if kind != ExchangeKind::Topic || hashes <= MAX_HASHES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Topology,
        format!(
            "queue `{queue}` cannot be bound to topic exchange `{exchange}` by `{routing_key}`, which has {hashes} `#`: \
             RabbitMQ takes at most {MAX_HASHES} in one binding (from 4.3.5 on); use `*` where one word is meant, or \
             several bindings"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: ExchangeKind, key: &str) -> Option<String> {
        let binding = BindingDecl::new("events", "mail", key.to_owned());
        check_pattern(kind, &binding).err().map(|error| error.to_string())
    }

    #[test]
    fn two_hashes_are_fine_and_three_are_refused_with_the_remedy() {
        assert_eq!(refusal(ExchangeKind::Topic, "#.a.#"), None);
        let words = refusal(ExchangeKind::Topic, "#.a.#.b.#").unwrap();
        for part in ["`mail`", "`events`", "`#.a.#.b.#`", "3 `#`", "at most 2", "several bindings"] {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
    }

    #[test]
    fn hash_within_a_word_and_on_other_exchanges_is_no_wildcard() {
        assert_eq!(refusal(ExchangeKind::Topic, "a#.#b.##.#.#"), None);
        assert_eq!(refusal(ExchangeKind::Direct, "#.#.#"), None);
    }
}
