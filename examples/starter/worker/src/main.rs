//! Runs the jobs until SIGTERM or Ctrl-C. `DATABASE` names the file (default `app.db`).
//!
//! Exit codes: 0 after an orderly stop; 78 (`EX_CONFIG`) when the configuration cannot work, so that a supervisor need not try
//! again; otherwise 1.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use leveret::{BoxError, Client, Error, ErrorKind, Worker, error_chain};
use tasks::{MailError, Mailer};
use tracing_subscriber::EnvFilter;

/// Your mail server's client comes here.
struct LogMailer;

#[async_trait]
impl Mailer for LogMailer {
    async fn send(&self, to: &str, subject: &str) -> Result<(), MailError> {
        tracing::info!(to, subject, "mail sent");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().compact().with_env_filter(filter).init();
    match work().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error_chain(&*error));
            match error.downcast_ref::<Error>().map(Error::kind) {
                Some(ErrorKind::Config | ErrorKind::Refused | ErrorKind::Topology) => ExitCode::from(78),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn work() -> Result<(), BoxError> {
    let file = env::var("DATABASE").unwrap_or_else(|_| "app.db".to_owned());
    let database = tasks::open(&file).await?;
    let client = Client::connect(&format!("sqlite:{file}")).await?;
    let worker = Worker::new(&client).state(database.clone()).shared::<dyn Mailer>(Arc::new(LogMailer));
    let ended = worker.run().await;
    client.close().await;
    database.close().await;
    Ok(ended?)
}
