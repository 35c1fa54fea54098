//! Pages of a queue's messages, and the token that asks for the next one.

use std::fmt;
use std::str::FromStr;

use super::Message;
use crate::broker::Mark;
use crate::error::{Error, Result};

/// The part of a queue that [`Admin::browse`](super::Admin::browse) shows: so many messages, from the head of the queue or behind
/// a [`PageToken`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub(super) size: usize,
    pub(super) after: Option<PageToken>,
}

impl Page {
    /// The first `size` messages of a queue, at least one.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(1), after: None }
    }

    /// Continues behind the page that gave this token as its [`next`](Browsed::next).
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }
}

/// A page of a queue's messages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Browsed {
    /// The messages: first those that are ready, in the order of their delivery, then the delayed ones by the moment that they
    /// are due.
    pub messages: Vec<Message>,
    /// Asks for the next page. `None` behind the last one, which may be empty.
    pub next: Option<PageToken>,
}

/// The end of a page, for the next one. As text it goes into a link of a web page, and `parse` reads it again; its
/// content may change between versions. A token of one queue is refused for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    queue: String,
    part: Part,
    mark: Mark,
}

/// A part of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Ready,
    Delayed,
}

impl PageToken {
    pub(super) fn new(queue: &str, part: Part, mark: Mark) -> Self {
        Self { queue: queue.to_owned(), part, mark }
    }

    /// The part and mark to continue from in `queue`.
    ///
    /// # Errors
    /// If it is a token of another queue.
    pub(super) fn place_in(&self, queue: &str) -> Result<(Part, Mark)> {
        let Self { queue: own, part, mark } = self;
        if own != queue {
            return Err(Error::config(format!(
                "this page token is of queue `{own}`, and not of queue `{queue}`: begin with `Page::new(..)` there"
            )));
        }
        Ok((*part, *mark))
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, part, mark: Mark { level, place } } = self;
        let part = match part {
            Part::Ready => "r",
            Part::Delayed => "d",
        };
        write!(f, "{part}.{level:x}.{place:x}.{queue}")
    }
}

impl FromStr for PageToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut parts = text.splitn(4, '.');
            let part = match parts.next()? {
                "r" => Part::Ready,
                "d" => Part::Delayed,
                _ => return None,
            };
            let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
            let mark = Mark { level: number()?, place: number()? };
            Some(Self::new(parts.next()?, part, mark))
        };
        read().ok_or_else(|| {
            Error::config(
                "this is no page token: take the text of `Browsed::next`, or begin with `Page::new(..)`",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn token_is_read_as_it_was_written() {
        for part in [Part::Ready, Part::Delayed] {
            let token = PageToken::new("a.b c/ü", part, Mark { level: u64::MAX, place: 7 });

            assert_eq!(token.to_string().parse::<PageToken>().unwrap(), token);
        }
    }

    #[test]
    fn what_is_no_token_is_refused_in_words() {
        for text in ["", "r", "r.1.2", "x.1.2.q", "r.-1.2.q", "r.1.g.q", "r.11111111111111111.2.q"] {
            let error = text.parse::<PageToken>().unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains("no page token"), "{error}");
        }
    }

    #[test]
    fn token_of_another_queue_is_refused() {
        let token = PageToken::new("emails", Part::Ready, Mark { level: 1, place: 2 });

        assert!(token.place_in("emails").is_ok());
        let words = token.place_in("orders").unwrap_err().to_string();
        assert!(words.contains("`emails`") && words.contains("`orders`"), "{words}");
    }
}
