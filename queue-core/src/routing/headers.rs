//! The bindings of a headers exchange: which headers must be there, and whether all or any.

use crate::envelope::{HeaderValue, Headers};

/// The headers that a message must have for a binding of a headers exchange to take it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadersMatch {
    /// True if one match is enough (`any`), false if all must match (`all`).
    any: bool,
    /// Name and value; [`HeaderValue::Null`] wants the header to be there, whatever its value.
    wanted: Vec<(String, HeaderValue)>,
}

/// An `x-match` that AMQP does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`x-match` is `{0}`, but must be one of `all`, `any`, `all-with-x`, `any-with-x`")]
pub struct BadMatch(String);

impl HeadersMatch {
    /// Reads a binding's arguments. Without `x-match` all must match; headers beginning with `x-` count only for
    /// `all-with-x` and `any-with-x`.
    ///
    /// # Errors
    /// If `x-match` is none of the four.
    pub fn new(arguments: &Headers) -> Result<Self, BadMatch> {
        let (any, with_x) = match arguments.get("x-match") {
            None => (false, false),
            Some(HeaderValue::String(rule)) => match rule.as_str() {
                "all" => (false, false),
                "any" => (true, false),
                "all-with-x" => (false, true),
                "any-with-x" => (true, true),
                other => return Err(BadMatch(other.to_owned())),
            },
            Some(other) => return Err(BadMatch(format!("{other:?}"))),
        };
        let wanted = arguments
            .iter()
            .filter(|(name, _)| *name != "x-match" && (with_x || !name.starts_with("x-")))
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        Ok(Self { any, wanted })
    }

    /// True if a message with these headers is taken. With nothing wanted, `all` takes every message and `any` none.
    pub fn matches(&self, headers: &Headers) -> bool {
        let is_there = |(name, wanted): &(String, HeaderValue)| {
            headers.get(name).is_some_and(|value| *wanted == HeaderValue::Null || value == wanted)
        };
        if self.any { self.wanted.iter().any(is_there) } else { self.wanted.iter().all(is_there) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes<const N: usize>(binding: [(&str, &str); N], message: &[(&str, &str)]) -> bool {
        let message = message.iter().copied().collect();
        HeadersMatch::new(&Headers::from(binding)).unwrap().matches(&message)
    }

    #[test]
    fn all_wants_every_header_and_is_the_default() {
        let both = [("kind", "report"), ("format", "pdf")];

        assert!(takes([("x-match", "all"), ("kind", "report"), ("format", "pdf")], &both));
        assert!(takes(both, &both));
        assert!(!takes(both, &[("kind", "report")]));
        assert!(!takes(both, &[("kind", "report"), ("format", "txt")]));
        assert!(takes([], &[]));
    }

    #[test]
    fn any_wants_one() {
        let binding = [("x-match", "any"), ("kind", "report"), ("format", "pdf")];

        assert!(takes(binding, &[("format", "pdf"), ("kind", "letter")]));
        assert!(!takes(binding, &[("format", "txt")]));
        assert!(!takes([("x-match", "any")], &[("format", "pdf")]));
    }

    #[test]
    fn names_beginning_with_x_count_only_where_asked() {
        assert!(takes([("x-match", "all"), ("x-tenant", "blue")], &[]));
        assert!(!takes([("x-match", "all-with-x"), ("x-tenant", "blue")], &[]));
        assert!(!takes([("x-match", "any"), ("x-tenant", "blue")], &[("x-tenant", "blue")]));
        assert!(takes([("x-match", "any-with-x"), ("x-tenant", "blue")], &[("x-tenant", "blue")]));
    }

    #[test]
    fn null_wants_presence_only_and_types_must_agree() {
        let present = HeadersMatch::new(&Headers::from([("n", HeaderValue::Null)])).unwrap();
        let one = HeadersMatch::new(&Headers::from([("n", 1_i64)])).unwrap();

        assert!(present.matches(&Headers::from([("n", "anything")])));
        assert!(!present.matches(&Headers::new()));
        assert!(one.matches(&Headers::from([("n", 1_i64)])));
        assert!(!one.matches(&Headers::from([("n", "1")])));
    }

    #[test]
    fn unknown_match_is_refused_by_name() {
        let error = HeadersMatch::new(&Headers::from([("x-match", "some")])).unwrap_err();

        assert!(error.to_string().contains("`some`"));
    }
}
