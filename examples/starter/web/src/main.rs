//! Serves the web application until SIGTERM or Ctrl-C. `DATABASE` names its file (default `app.db`), `WEB_ADDRESS` where it
//! listens (default `127.0.0.1:8080`).

use std::env;
use std::process::ExitCode;

use leveret::{BoxError, Client, Task as _, error_chain};
use tasks::SendWelcome;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use web::{App, routes};

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().compact().with_env_filter(filter).init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let file = env::var("DATABASE").unwrap_or_else(|_| "app.db".to_owned());
    let address = env::var("WEB_ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let database = tasks::open(&file).await?;
    // The client creates Leveret's tables, and moves the jobs that requests insert into their queues.
    let client = Client::connect(&format!("sqlite:{file}")).await?;
    // Until the queue is declared, by this program or by the worker, its jobs wait in `leveret_outbox`.
    client.declare_queue(SendWelcome::queue()).await?;

    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("listen on {address}: {error}"))?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes(App { database: database.clone(), client: client.clone() }))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;

    client.close().await;
    database.close().await;
    Ok(())
}
