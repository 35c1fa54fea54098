//! The patterns of a topic exchange, against a reference that is slow and plain.

use std::iter::repeat_n;

use queue_core::broker::Publish;
use queue_core::envelope::Envelope;
use queue_core::topology::{BindingDecl, ExchangeKind, QueueDecl, Topology};

use crate::routing::contents;
use crate::support::Fixture;
use crate::topology::assert_topology_error;

/// Every pattern of up to three words out of `a`, `b`, `*`, `#`, against every key of up to four words, and against
/// keys with empty words. All of them, since there are few.
pub(crate) async fn short_patterns_match_as_amqp_says(t: &Fixture) {
    let mut patterns = sequences(&["a", "b", "*", "#"], 3);
    patterns.retain(|pattern| hashes(pattern) <= MAX_HASHES);
    patterns.extend(["", "a."].map(str::to_owned));
    let mut keys = sequences(&["a", "b"], 4);
    keys.extend(["", ".", "a.", ".a", "a..b", "ab", "a.*", "#"].map(str::to_owned));

    assert_all_match(t, patterns, keys, "").await;
}

/// Longer ones, where `#` may stand in the middle or repeat, and words may be empty.
pub(crate) async fn random_patterns_match_as_amqp_says(t: &Fixture) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut dotted = |words: &[&str], longest: usize| {
        let length = random.usize(0..=longest);
        (0..length).map(|_| *random.choice(words).expect("some words")).collect::<Vec<_>>().join(".")
    };
    let random_patterns = std::iter::repeat_with(|| dotted(&["", "a", "b", "ä", "*", "*", "#", "#"], 6));
    let mut patterns: Vec<_> =
        random_patterns.filter(|pattern| hashes(pattern) <= MAX_HASHES).take(40).collect();
    patterns.extend(["#.#", "a.#.b", "#.a.#", "*.#.*", "#.*.#", ".#", "#."].map(str::to_owned));
    let keys: Vec<_> = (0..120).map(|_| dotted(&["", "a", "a", "b", "b", "ä"], 7)).collect();

    assert_all_match(t, patterns, keys, &format!(" (seed {seed})")).await;
}

/// As long as AMQP carries, by bytes and by words.
pub(crate) async fn keys_of_255_bytes_match_as_amqp_says(t: &Fixture) {
    let words = |word, count| repeat_n(word, count).collect::<Vec<_>>().join(".");
    let keys = vec![
        "x".repeat(255),
        "ä".repeat(127) + "x",
        words("a", 128),
        ".".repeat(255),
        format!("{}.b", words("a", 127)),
        format!("{}.b", "x".repeat(253)),
    ];
    assert!(keys.iter().all(|key| key.len() == 255));
    let mut patterns = keys.clone();
    patterns.push(words("*", 128));
    patterns.push(format!("#.{}", words("*", 127)));
    patterns.extend(["#", "*", "#.#", "a.#", "#.b", "a.#.b", "*.#.*", "*.b", "#.a.#"].map(str::to_owned));

    assert_all_match(t, patterns, keys, "").await;
}

/// RabbitMQ refuses it since 4.3.5, and so do the brokers that promise to be portable. Older servers take it.
pub(crate) async fn binding_by_three_hashes_is_refused_in_words(t: &Fixture) {
    let exchange = t.exchange("topic", ExchangeKind::Topic).await;
    let queue = t.plain_queue("bound").await;
    let bind =
        |key: &'static str| Topology::new().binding(BindingDecl::new(exchange.clone(), queue.clone(), key));
    t.declare(&bind("#.a.#")).await;

    let outcome = t.broker.declare(&bind("#.a.#.b.#")).await;

    if t.is_older_rabbitmq() {
        outcome.unwrap();
    } else {
        assert_topology_error(
            &outcome.unwrap_err(),
            &[&queue, &exchange, "`#.a.#.b.#`", "3", "#", "at most 2"],
        );
    }
    // What it had before the refusal is there, and the queue is as it was.
    t.broker.publish(Publish::to_exchange(exchange, "x.a".to_owned(), Envelope::new("1"))).await.unwrap();
    assert_eq!(contents(t, &queue).await, ["1"]);
}

/// How many `#` every supported RabbitMQ takes in one binding.
const MAX_HASHES: usize = 2;

fn hashes(pattern: &str) -> usize {
    pattern.split('.').filter(|word| *word == "#").count()
}

/// Binds a queue by each pattern, publishes by each key, and looks at what every queue got.
async fn assert_all_match(t: &Fixture, patterns: Vec<String>, keys: Vec<String>, hint: &str) {
    let exchange = t.exchange("topic", ExchangeKind::Topic).await;
    let queues: Vec<_> = patterns.iter().map(|_| t.name("bound")).collect();
    let mut topology = Topology::new();
    for (queue, pattern) in queues.iter().zip(&patterns) {
        topology = topology.queue(QueueDecl::new(queue.clone())).binding(BindingDecl::new(
            exchange.clone(),
            queue.clone(),
            pattern.clone(),
        ));
    }
    t.declare(&topology).await;

    let to_key =
        |key: &String| Publish::to_exchange(exchange.clone(), key.clone(), Envelope::new(key.clone()));
    for result in t.broker.publish_all(keys.iter().map(to_key).collect()).await {
        result.unwrap();
    }

    for (queue, pattern) in queues.iter().zip(&patterns) {
        let expected: Vec<_> = keys.iter().filter(|key| matches(pattern, key)).cloned().collect();
        assert_eq!(contents(t, queue).await, expected, "pattern `{pattern}`{hint}");
    }
}

/// All sequences of one to `longest` words.
fn sequences(words: &[&str], longest: usize) -> Vec<String> {
    let mut all: Vec<String> = words.iter().map(ToString::to_string).collect();
    let mut last = all.clone();
    for _ in 1..longest {
        last =
            last.iter().flat_map(|start| words.iter().map(move |word| format!("{start}.{word}"))).collect();
        all.extend_from_slice(&last);
    }
    all
}

/// The reference: plainly what AMQP says. `*` is one word, `#` any number of them.
fn matches(pattern: &str, key: &str) -> bool {
    fn words(text: &str) -> Vec<&str> {
        if text.is_empty() { vec![] } else { text.split('.').collect() }
    }
    fn go(pattern: &[&str], key: &[&str]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ["#", rest @ ..] => (0..=key.len()).any(|skipped| go(rest, &key[skipped..])),
            [word, rest @ ..] => {
                key.split_first().is_some_and(|(k, key)| (*word == "*" || word == k) && go(rest, key))
            }
        }
    }
    go(&words(pattern), &words(key))
}
