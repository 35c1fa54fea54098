//! Remote procedure calls: one program asks, another computes, and the answer comes back typed.
//!
//! ```sh
//! cargo run --example rpc                                # both in one program, on `memory:`
//!
//! export LEVERET_URL=amqp://guest:guest@localhost/
//! cargo run --features rabbitmq --example rpc serve      # until Ctrl-C
//! cargo run --features rabbitmq --example rpc call 10 4
//! cargo run --features rabbitmq --example rpc call 1 0   # what the server says against it is the caller's error
//! ```
//!
//! Any AMQP program can call, too: a message to queue `calculator` with `type` = `divide`, the body
//! `{"a": 10, "b": 4}`, a `reply_to` and a `correlation_id` is answered in plain JSON.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use leveret::{BoxError, CallError, Client, Worker, task};

/// What comes back: any type that serde reads and writes.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Quotient {
    whole: u64,
    rest: u64,
}

#[derive(Debug)]
struct DivisionByZero;

impl fmt::Display for DivisionByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("division by zero")
    }
}

impl std::error::Error for DivisionByZero {}

/// The procedure. Several callers are served at once.
#[task(queue = "calculator", queue_type = "classic", dlx = none, concurrency = 10)]
async fn divide(a: u64, b: u64) -> Result<Quotient, DivisionByZero> {
    match (a.checked_div(b), a.checked_rem(b)) {
        (Some(whole), Some(rest)) => Ok(Quotient { whole, rest }),
        _ => Err(DivisionByZero),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] => both().await,
        ["serve"] => serve().await,
        ["call", a, b] => match (a.parse(), b.parse()) {
            (Ok(a), Ok(b)) => call(a, b).await,
            _ => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rpc: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: rpc | rpc serve | rpc call A B (whole numbers)");
    ExitCode::from(2)
}

/// Server and client in one program, and one connection.
async fn both() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    let worker = Worker::new(&client);
    let server = worker.handle();
    let serving = tokio::spawn(worker.run());

    for (a, b) in [(10, 4), (7, 2), (1, 0)] {
        ask(&client, a, b).await?;
    }

    server.shutdown();
    serving.await??;
    client.close().await;
    Ok(())
}

async fn serve() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    if client.info().system == "memory" {
        println!("`memory:` ends with its process, so nobody can call this one; set LEVERET_URL");
    }
    println!("dividing; Ctrl-C ends");
    Worker::new(&client).run().await?;
    client.close().await;
    Ok(())
}

async fn call(a: u64, b: u64) -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    let asked = ask(&client, a, b).await;
    client.close().await;
    asked
}

async fn ask(client: &Client, a: u64, b: u64) -> Result<(), BoxError> {
    match client.call(Divide { a, b }).timeout(Duration::from_secs(5)).await {
        Ok(Quotient { whole, rest }) => println!("{a} / {b} = {whole}, rest {rest}"),
        // The server's own words. All else, such as a server that is not there, is ours to report.
        Err(CallError::Handler { message, .. }) => println!("{a} / {b}: {message}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
