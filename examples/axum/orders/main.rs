//! A small shop: a web front, calls, events and dead letters, over several modules. Start reading at [`web`].
//!
//! ```sh
//! cargo run --features schema --example orders    # serves on http://127.0.0.1:8080; WEB_ADDRESS sets another address
//! shop=http://127.0.0.1:8080
//! curl $shop/orders --json '{"customer": "ada@example.com", "region": "europe", "items": [{"name": "tea", "count": 2}]}'
//! curl $shop/orders --json '{"customer": "ada@example.com", "region": "asia", "items": [{"name": "cake", "count": 9}]}'
//! curl $shop/dead-letters               # the bank takes no more than 100.00 at a time
//! curl -X PUT $shop/bank/limit/50000    # until it is asked to
//! curl -X POST $shop/dead-letters/replay
//!
//! cargo run --features schema --example orders asyncapi    # what it sends and receives, for other programs
//! ```
//!
//! ```text
//! POST /orders ─ call ─▶ price (pricing)
//!              ─ enqueue ─▶ charge (payment) ─ publish ─▶ OrderPaid (event) ─▶ send_receipt, reserve, note_tax (service)
//! ```
//!
//! On `memory:` all of it is in this process. On RabbitMQ (`--features schema,rabbitmq`) several of them share the work.

mod event;
mod payment;
mod pricing;
mod serve;
mod service;
mod web;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] | ["serve"] => serve::serve().await,
        ["asyncapi"] => {
            println!("{:#}", leveret::asyncapi::document("orders", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        _ => {
            eprintln!("usage: orders | orders serve | orders asyncapi");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}
