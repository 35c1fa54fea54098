//! A web application that enqueues, with its worker in the same process.
//!
//! ```sh
//! cargo run --example web
//! curl -i http://127.0.0.1:8080/orders --json '{"customer": "ada@example.com", "items": [{"name": "tea", "count": 2}]}'
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `POST /orders` | 202 `{"job": "0199…", "status": "queued"}`: the broker has confirmed the job |
//! | | 400, 413, 415, 422 `{"error": "…"}`: the order is none, and why |
//! | | 503 with `Retry-After`: the broker is away, after 3 s at most |
//! | `GET /healthz` | 200: the process lives |
//! | `GET /readyz` | 200 while the broker can be talked to, or else 503 |
//!
//! `WEB_ADDRESS` says where to listen (default `127.0.0.1:8080`), `LEVERET_URL` or `RABBITMQ_URL` names the broker
//! (RabbitMQ with `--features rabbitmq`, SQLite with `--features sqlite`).
//! SIGTERM and Ctrl-C end it in order: no new requests, then no new jobs, then the connection to the broker. A broker that
//! is away at the start is an error and exit code 1, for a supervisor to try again.

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use leveret::{
    BoxError, Client, EnqueueError, ErrorKind, Health, JobId, PublishError, Worker, error_chain, task,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an enqueue waits for a broker that is away. A person waits for the answer.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for all that a request does with the broker. Longer, so that it only counts where something else hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// When to come back, in seconds: Leveret reconnects by itself.
const RETRY_AFTER: &str = "5";
/// How long requests under way have at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Item {
    name: String,
    count: u32,
}

/// Packs an order. A request that failed with 503 may have been queued all the same, and its caller will repeat it: a
/// shop that must not pack twice takes a number of the caller's into the payload, and looks for it here.
#[task(queue = "web.orders", dlx = "web.orders.dlx", retries = 5)]
async fn pack(customer: String, items: Vec<Item>) {
    let pieces: u64 = items.iter().map(|item| u64::from(item.count)).sum();
    println!("packed {pieces} pieces for {customer}");
}

/// The body of `POST /orders`. Not the payload itself, so that what the web sends and what the queue keeps can change
/// at different times.
#[derive(Debug, Deserialize)]
struct Order {
    customer: String,
    items: Vec<Item>,
}

impl Order {
    /// The job, or what is wrong with the order, in words for whoever sent it.
    fn check(self) -> Result<Pack, String> {
        if !self.customer.contains('@') {
            return Err(format!("`customer` is `{}`: it must be an email address", self.customer));
        }
        if self.items.is_empty() {
            return Err("`items` is empty: order at least one".to_owned());
        }
        if let Some(item) = self.items.iter().find(|item| !(1..=100).contains(&item.count)) {
            return Err(format!("`count` of `{}` is {}: it must be from 1 to 100", item.name, item.count));
        }
        Ok(Pack { customer: self.customer, items: self.items })
    }
}

#[derive(Debug, Serialize)]
struct Queued {
    job: JobId,
    status: &'static str,
}

async fn place_order(
    State(client): State<Client>,
    order: Result<Json<Order>, JsonRejection>,
) -> Result<(StatusCode, Json<Queued>), Refusal> {
    let Json(order) = order?;
    let job = order.check().map_err(Refusal::Invalid)?;
    let job = timeout(REQUEST_TIMEOUT, async { client.enqueue(job).await })
        .await
        .map_err(|_| Refusal::Unknown(format!("no answer of the broker within {REQUEST_TIMEOUT:?}")))??;
    Ok((StatusCode::ACCEPTED, Json(Queued { job: job.into(), status: "queued" })))
}

/// Why an order was not queued. What went wrong behind the web is logged, and not told to the web.
enum Refusal {
    /// It is no JSON, or not that of an order.
    NotAnOrder(JsonRejection),
    /// It is an order that cannot be.
    Invalid(String),
    /// It was not queued; later it may be.
    Away(String),
    /// It may have been queued: the broker went, or fell silent, before it confirmed.
    Unknown(String),
    /// It was not queued, and will not be.
    Broken(String),
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::NotAnOrder(rejection)
    }
}

impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        let words = error_chain(&error);
        match error {
            EnqueueError::QueueFull { .. } => Self::Away(words),
            EnqueueError::Declare { source, .. } if source.kind() == ErrorKind::Connection => {
                Self::Away(words)
            }
            EnqueueError::Publish(PublishError::Unconfirmed { .. }) => Self::Unknown(words),
            EnqueueError::Publish(
                PublishError::Unavailable { .. } | PublishError::Blocked { .. } | PublishError::Closed,
            ) => Self::Away(words),
            _ => Self::Broken(words),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let later = |error: &str| {
            let body = Json(json!({ "error": error }));
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], body).into_response()
        };
        let (status, error) = match self {
            Self::NotAnOrder(rejection) => (rejection.status(), rejection.body_text()),
            Self::Invalid(words) => (StatusCode::UNPROCESSABLE_ENTITY, words),
            Self::Away(words) => {
                tracing::warn!("an order was not queued: {words}");
                return later("the order was not queued; try again later");
            }
            Self::Unknown(words) => {
                tracing::warn!("an order may have been queued: {words}");
                return later("the order may or may not have been queued; try again later");
            }
            Self::Broken(words) => {
                tracing::error!("an order cannot be queued: {words}");
                (StatusCode::INTERNAL_SERVER_ERROR, "the order cannot be queued".to_owned())
            }
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}

async fn ready(State(client): State<Client>) -> (StatusCode, String) {
    match client.info().health {
        Health::Up => (StatusCode::OK, "ready\n".to_owned()),
        Health::Blocked(reason) | Health::Down(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the broker takes no jobs: {reason}\n"))
        }
        other => (StatusCode::SERVICE_UNAVAILABLE, format!("{other:?}\n")),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), BoxError> {
    // Before anything that has to be ended in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let client = Client::builder().publish_timeout(PUBLISH_TIMEOUT).from_env().await?;
    let worker = Worker::new(&client).signals(false);
    // Now, and not with the first order: whatever is wrong with the queue is seen before anybody is served.
    worker.declare().await?;
    let worker_handle = worker.handle();
    let mut working = tokio::spawn(worker.run());

    let routes = Router::new()
        .route("/orders", post(place_order))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(client.clone());
    let address = std::env::var("WEB_ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("listen on {address}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop_serving, stop) = oneshot::channel::<()>();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async { drop(stop.await) });
    let serving = tokio::spawn(server.into_future());

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        // A worker that cannot go on has said why. Without it, orders would be taken and never packed.
        ended = &mut working => Some(ended),
    };
    // A second signal ends the process at once; the broker gives what was running to another worker.
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        std::process::exit(1);
    });

    // Requests before jobs: those under way still enqueue.
    drop(stop_serving);
    if timeout(DRAIN_TIMEOUT, serving).await.is_err() {
        tracing::warn!("some requests did not end within {DRAIN_TIMEOUT:?}");
    }
    // Jobs before the connection: those under way are still settled.
    worker_handle.shutdown();
    let ended = match ended {
        Some(ended) => ended,
        None => working.await,
    };
    client.close().await;
    Ok(ended??)
}
