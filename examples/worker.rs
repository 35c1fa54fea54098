//! A worker binary as one would ship it: configuration from the environment, logs, signals, exit codes, and its
//! tasks in a library beside it (`examples/tasks`).
//!
//! ```sh
//! export LEVERET_URL=amqp://guest:guest@localhost/ LEVERET_CONCURRENCY=8 RUST_LOG=info
//! cargo run --features rabbitmq --example worker
//! ```
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LEVERET_URL`, `RABBITMQ_URL` | the broker | none: one of them must be set |
//! | `LEVERET_CONCURRENCY` | jobs at once per queue | what each task says |
//! | `LEVERET_QUEUES` | only these queues, by commas | all |
//! | `MAIL_FROM` | the address that mails come from | `hello@example.com` |
//! | `RUST_LOG` | what is logged | `info`, without what lapin says beside it |
//!
//! Exit codes: 0 after SIGTERM or Ctrl-C and a clean end; 1 when it failed or was told twice to stop; 143 (SIGTERM) or 130
//! (Ctrl-C) when it was told twice and a function without `async` still ran, under which the process then ends; 78
//! (`EX_CONFIG`) when the configuration cannot work, so that a supervisor need not try again.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use example_tasks::Mailer;
use leveret::{Client, Error, ErrorKind, Worker};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    // lapin says in its own words what Leveret says anyway, and logs each returned message with its payload.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,lapin=off"));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .init();

    match work().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", leveret::error_chain(&error));
            match error.kind() {
                ErrorKind::Config | ErrorKind::Refused | ErrorKind::Topology => ExitCode::from(78),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn work() -> leveret::Result<()> {
    // Whichever of the two is started first.
    let client = Client::builder().wait_for_broker().from_env().await?;
    let from = std::env::var("MAIL_FROM").unwrap_or_else(|_| "hello@example.com".to_owned());
    let mut worker = Worker::new(&client).state(Mailer { from });
    if let Ok(jobs) = std::env::var("LEVERET_CONCURRENCY") {
        worker = worker.concurrency(jobs.parse().map_err(|_| {
            Error::new(
                ErrorKind::Config,
                format!("LEVERET_CONCURRENCY is `{jobs}`: set a number from 1 to 65535"),
            )
        })?);
    }
    if let Ok(queues) = std::env::var("LEVERET_QUEUES") {
        worker = worker.queues(queues.split(',').map(str::trim));
    }
    let ended = worker.run().await;
    client.close().await;
    ended
}
