//! Routing on the memory broker: how the time per message grows with the bindings of its exchange, and with the words of
//! its key. Needs no server.

use std::time::Instant;

use leveret::{Client, Properties};
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

use crate::measure::spread;

/// Messages of one measurement.
const MESSAGES: u32 = 20_000;
const ROUNDS: usize = 5;

/// Prints both tables.
pub(crate) async fn bench() {
    println!(
        "routing on the memory broker: µs per message, medians of {ROUNDS} rounds of {MESSAGES} messages\n"
    );

    println!("{:<28} {:>8} {:>8} {:>8} {:>8}", "bindings, by keys of 4 words", 10, 100, 1_000, 10_000);
    for (name, pattern) in PATTERNS {
        print!("{name:<28}");
        for bindings in [10, 100, 1_000, 10_000] {
            print!(" {:>8.2}", per_message(bindings, 4, pattern).await);
        }
        println!();
    }

    println!("\n{:<28} {:>8} {:>8} {:>8} {:>8}", "words, of 1,000 bindings", 2, 4, 8, 16);
    for (name, pattern) in PATTERNS {
        print!("{name:<28}");
        for words in [2, 4, 8, 16] {
            print!(" {:>8.2}", per_message(1_000, words, pattern).await);
        }
        println!();
    }
    println!();
}

/// The pattern of the `n`th of so many queues, for keys of so many words.
type Pattern = fn(usize, usize) -> String;

/// The message's key is `w0.a.a.…`, and only the first queue's pattern takes it.
const PATTERNS: [(&str, Pattern); 3] = [
    ("w7.a.a.a", |n, words| format!("w{n}{}", ".a".repeat(words - 1))),
    ("w7.*.a.a", |n, words| {
        let star = 1 + n % (words - 1);
        let word = |at| if at == star { ".*" } else { ".a" };
        (1..words).fold(format!("w{n}"), |pattern, at| pattern + word(at))
    }),
    // The worst: nothing can be left out by the first word.
    ("#.w7.#", |n, _| format!("#.w{n}.#")),
];

async fn per_message(bindings: usize, words: usize, pattern: Pattern) -> f64 {
    let client = Client::connect("memory:").await.expect("memory");
    let exchange = "bench.topic";
    let mut topology = Topology::new().exchange(ExchangeDecl::new(exchange, ExchangeKind::Topic));
    for n in 0..bindings {
        let queue = format!("bench.{n}");
        // Keeps the last message only, so that memory does not grow with what is measured.
        let declared = QueueDecl::new(queue.clone()).argument("x-max-length", 1_i64);
        topology = topology.queue(declared).binding(BindingDecl::new(exchange, queue, pattern(n, words)));
    }
    client.declare(&topology).await.expect("declared");
    let key = format!("w0{}", ".a".repeat(words - 1));

    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..MESSAGES {
            client
                .publish_raw(exchange, key.clone(), "x", Properties::new())
                .must_route()
                .await
                .expect("routed");
        }
        rounds.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(MESSAGES));
    }
    assert_eq!(client.admin().depth("bench.0").await.expect("it is there").ready, 1);
    assert_eq!(client.admin().depth("bench.1").await.expect("it is there").ready, 0);
    spread(rounds).0
}
