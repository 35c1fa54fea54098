//! Names of a document's parts. AsyncAPI allows letters, digits, `.`, `-` and `_` in a component's name; AMQP allows
//! anything in that of a queue.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Gives each thing a name, the same whenever it is asked for again. Two things never get the same.
#[derive(Debug, Default)]
pub(super) struct Names {
    given: HashMap<String, String>,
    taken: HashSet<String>,
}

impl Names {
    /// The name of `thing`, of which `wish` is what it would best be called.
    pub(super) fn of(&mut self, thing: impl Into<String>, wish: &str) -> String {
        let Self { given, taken } = self;
        let name = given.entry(thing.into()).or_insert_with(|| {
            let wish = plain(wish);
            let names = std::iter::once(wish.clone()).chain((2..).map(|n| format!("{wish}_{n}")));
            let name = names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
            taken.insert(name.clone());
            name
        });
        name.clone()
    }
}

/// `text` in the letters that a name may have.
fn plain(text: &str) -> String {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let mut name = String::with_capacity(text.len());
    for letter in text.chars() {
        if allowed(letter) {
            name.push(letter);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "_{:x}_", u32::from(letter));
        }
    }
    if name.is_empty() { "_".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_never_shared() {
        let mut names = Names::default();

        assert_eq!(names.of("queue orders", "orders.eu-1"), "orders.eu-1");
        assert_eq!(names.of("exchange orders", "orders.eu-1"), "orders.eu-1_2");
        assert_eq!(names.of("queue orders", "whatever"), "orders.eu-1");
        assert_eq!(names.of("a/b", "a/b"), "a_2f_b");
        assert_eq!(names.of("nothing", ""), "_");
    }
}
