//! The patterns of a topic exchange, as a trie of words: `*` stands for one word, `#` for any number, also none.

use std::collections::{BTreeSet, HashMap};

/// The queues that are bound, by their patterns.
///
/// A key walks the trie word by word with the set of places it may be at. Each place counts once, so that a pattern
/// like `#.a.#.a.#` costs its length times the key's, and never explodes.
#[derive(Debug, Clone)]
pub struct Topics<Q> {
    /// The trie's nodes; the first is the root. Nodes refer to each other by index.
    nodes: Vec<Node<Q>>,
}

#[derive(Debug, Clone)]
struct Node<Q> {
    words: HashMap<String, usize>,
    star: Option<usize>,
    hash: Option<usize>,
    /// True if this node was reached by `#`: it then stays where it is at every further word.
    is_hash: bool,
    /// The queues whose pattern ends here.
    queues: BTreeSet<Q>,
}

impl<Q> Node<Q> {
    fn new(is_hash: bool) -> Self {
        Self { words: HashMap::new(), star: None, hash: None, is_hash, queues: BTreeSet::new() }
    }
}

const ROOT: usize = 0;

/// The words of a key or pattern. The empty key has none, as on RabbitMQ; `a.` has an empty second one.
fn words(key: &str) -> impl Iterator<Item = &str> {
    (!key.is_empty()).then(|| key.split('.')).into_iter().flatten()
}

impl<Q: Copy + Ord> Topics<Q> {
    /// No patterns.
    pub fn new() -> Self {
        Self { nodes: vec![Node::new(false)] }
    }

    /// Binds a queue with a pattern.
    pub fn insert(&mut self, pattern: &str, queue: Q) {
        let mut at = ROOT;
        for word in words(pattern) {
            // `#.#` means what `#` means.
            if word == "#" && self.nodes[at].is_hash {
                continue;
            }
            let next = match word {
                "*" => self.nodes[at].star,
                "#" => self.nodes[at].hash,
                word => self.nodes[at].words.get(word).copied(),
            };
            at = next.unwrap_or_else(|| self.add(at, word));
        }
        self.nodes[at].queues.insert(queue);
    }

    fn add(&mut self, parent: usize, word: &str) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node::new(word == "#"));
        let parent = &mut self.nodes[parent];
        match word {
            "*" => parent.star = Some(child),
            "#" => parent.hash = Some(child),
            word => {
                parent.words.insert(word.to_owned(), child);
            }
        }
        child
    }

    /// Takes out all patterns of a queue. Built anew from what is left, so that patterns of queues that come and go
    /// do not pile up.
    pub fn remove(&mut self, queue: Q) {
        let old = std::mem::take(self);
        let mut path = Vec::new();
        old.each(ROOT, &mut path, &mut |pattern, bound| {
            if bound != queue {
                self.insert(pattern, bound);
            }
        });
    }

    fn each<'a>(&'a self, at: usize, path: &mut Vec<&'a str>, see: &mut impl FnMut(&str, Q)) {
        let node = &self.nodes[at];
        if !node.queues.is_empty() {
            let pattern = path.join(".");
            node.queues.iter().for_each(|queue| see(&pattern, *queue));
        }
        let children = node.words.iter().map(|(word, child)| (word.as_str(), *child));
        let wild = node.star.map(|child| ("*", child)).into_iter().chain(node.hash.map(|child| ("#", child)));
        for (word, child) in children.chain(wild) {
            path.push(word);
            self.each(child, path, see);
            path.pop();
        }
    }

    /// Adds the queues whose pattern matches to `queues`; one bound with several may stand there more than once.
    pub fn matches(&self, key: &str, queues: &mut Vec<Q>) {
        let mut here = Vec::with_capacity(8);
        let mut next = Vec::with_capacity(8);
        self.enter(ROOT, &mut here);
        for word in words(key) {
            self.step(&here, word, &mut next);
            std::mem::swap(&mut here, &mut next);
            next.clear();
            if here.is_empty() {
                return;
            }
        }
        for at in here {
            queues.extend(&self.nodes[at].queues);
        }
    }

    /// Adds to `next` where a word leads from `here`, each place once.
    fn step(&self, here: &[usize], word: &str, next: &mut Vec<usize>) {
        for &at in here {
            let node = &self.nodes[at];
            if node.is_hash {
                self.enter(at, next);
            }
            if let Some(&child) = node.words.get(word) {
                self.enter(child, next);
            }
            if let Some(child) = node.star {
                self.enter(child, next);
            }
        }
        next.sort_unstable();
        next.dedup();
    }

    /// Steps onto a node, and onto the `#` below it, which matches no word at all.
    fn enter(&self, at: usize, places: &mut Vec<usize>) {
        places.push(at);
        // A `#` never stands directly below a `#`, so one step is enough.
        if let Some(hash) = self.nodes[at].hash {
            places.push(hash);
        }
    }
}

impl<Q: Copy + Ord> Default for Topics<Q> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// AMQP's rule, as plainly as it can be said.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.first(), key.first()) {
            (None, None) => true,
            (Some(&"#"), _) => {
                matches(&pattern[1..], key) || (!key.is_empty() && matches(pattern, &key[1..]))
            }
            (Some(&"*"), Some(_)) => matches(&pattern[1..], &key[1..]),
            (Some(word), Some(other)) if word == other => matches(&pattern[1..], &key[1..]),
            _ => false,
        }
    }

    fn reference(patterns: &[String], key: &str) -> Vec<usize> {
        let key: Vec<_> = words(key).collect();
        let hit = |pattern: &String| matches(&words(pattern).collect::<Vec<_>>(), &key);
        (0..patterns.len()).filter(|&queue| hit(&patterns[queue])).collect()
    }

    fn bound(patterns: &[String]) -> Topics<usize> {
        let mut topics = Topics::new();
        for (queue, pattern) in patterns.iter().enumerate() {
            topics.insert(pattern, queue);
        }
        topics
    }

    fn reached(topics: &Topics<usize>, key: &str) -> Vec<usize> {
        let mut queues = Vec::new();
        topics.matches(key, &mut queues);
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    fn dotted(word: &'static str) -> impl Strategy<Value = String> {
        prop::collection::vec(word, 0..6).prop_map(|words| words.join("."))
    }

    proptest! {
        #[test]
        fn matches_what_the_rule_says(
            patterns in prop::collection::vec(dotted("[ab*#]|"), 0..12),
            key in dotted("[ab]|"),
        ) {
            prop_assert_eq!(reached(&bound(&patterns), &key), reference(&patterns, &key));
        }

        #[test]
        fn removal_leaves_the_others_alone(
            patterns in prop::collection::vec(dotted("[ab*#]"), 1..12),
            key in dotted("[ab]"),
        ) {
            let mut topics = bound(&patterns);

            topics.remove(0);

            let mut expected = reference(&patterns, &key);
            expected.retain(|&queue| queue != 0);
            prop_assert_eq!(reached(&topics, &key), expected);
        }
    }

    #[test]
    fn empty_key_has_no_word() {
        let topics = bound(&["".into(), "*".into(), "#".into(), "*.#".into()]);

        assert_eq!(reached(&topics, ""), [0, 2]);
    }

    #[test]
    fn many_hashes_cost_no_more_than_their_number() {
        let topics = bound(&[["#", "a"].repeat(30).join(".")]);

        // Backtracking would take longer than the universe has existed.
        assert_eq!(reached(&topics, &["a"; 200].join(".")), [0]);
        assert_eq!(reached(&topics, &(["a"; 200].join(".") + ".b")), [] as [usize; 0]);
    }

    /// At how many places a key is, over all its words. Each costs a look into its children's map, whatever that holds.
    fn visited(topics: &Topics<usize>, key: &str) -> usize {
        let mut here = Vec::new();
        topics.enter(ROOT, &mut here);
        let mut count = here.len();
        for word in words(key) {
            let mut next = Vec::new();
            topics.step(&here, word, &mut next);
            count += next.len();
            here = next;
        }
        count
    }

    #[test]
    fn key_visits_no_more_places_for_more_bindings() {
        let bindings = |count| {
            let patterns =
                |n| [format!("order.{n}.*"), format!("order.*.{n}"), format!("#.{n}"), format!("{n}.#")];
            bound(&(0..count).flat_map(patterns).collect::<Vec<_>>())
        };
        let (few, many) = (bindings(10), bindings(10_000));

        for key in ["order.7.9", "7.order.9", "order.7", "invoice.7.9.placed"] {
            assert_eq!(visited(&few, key), visited(&many, key), "{key}");
        }
        // By `order.7.*`, `order.*.9` and `#.9`.
        assert_eq!(reached(&many, "order.7.9"), [28, 37, 38]);
    }

    #[test]
    fn removed_patterns_leave_no_nodes_behind() {
        let mut topics = Topics::new();
        for queue in 0..100 {
            topics.insert(&format!("a.{queue}"), queue);
            topics.remove(queue);
        }

        assert_eq!(topics.nodes.len(), 1);
    }
}
