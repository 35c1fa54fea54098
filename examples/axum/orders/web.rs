//! The shop's front: what it answers, and what it says when the broker is away.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use leveret::{CallError, Client, Error, Health, error_chain};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::payment::{Bank, Charge, DEAD_LETTERS};
use crate::pricing::{Item, Price};

/// How long a price may take. A person waits for the answer.
const PRICE_TIMEOUT: Duration = Duration::from_secs(2);
/// When to come back, in seconds.
const RETRY_AFTER: &str = "5";

#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) client: Client,
    pub(crate) bank: Arc<Bank>,
}

pub(crate) fn routes(shop: Shop) -> Router {
    Router::new()
        .route("/orders", post(place_order))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/replay", post(replay))
        .route("/bank/limit/{cents}", put(set_limit))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(shop)
}

#[derive(Debug, Deserialize)]
struct Order {
    customer: String,
    region: String,
    items: Vec<Item>,
}

/// Asks what the order costs, and enqueues its payment.
async fn place_order(
    State(shop): State<Shop>,
    order: Result<Json<Order>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Json(Order { customer, region, items }) =
        order.map_err(|rejection| Refusal::Bad(rejection.status(), rejection.body_text()))?;
    // It becomes a word of the event's key, and would be refused there, with nobody to tell.
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_lowercase()) {
        let words = format!("`region` is `{region}`: it must be one word of small letters");
        return Err(Refusal::Bad(StatusCode::UNPROCESSABLE_ENTITY, words));
    }

    let cents = shop.client.call(Price { items }).timeout(PRICE_TIMEOUT).await?;
    let order = shop.client.enqueue(Charge { customer, region, cents }).await.map_err(away)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "order": order, "cents": cents, "status": "queued" }))))
}

/// What could not be charged, and why.
async fn dead_letters(State(shop): State<Shop>) -> Result<Json<Value>, Refusal> {
    let letters = shop.client.admin().dead_letters(DEAD_LETTERS, 100).await.map_err(away)?;
    let letters = letters.into_iter().map(|letter| {
        let payload: Value = serde_json::from_slice(&letter.payload).unwrap_or_default();
        json!({ "order": letter.id, "error": letter.error, "payload": payload })
    });
    Ok(Json(letters.collect()))
}

/// Tries them again, as new jobs.
async fn replay(State(shop): State<Shop>) -> Result<Json<Value>, Refusal> {
    let replayed = shop.client.admin().replay(DEAD_LETTERS, 100, |_| true).await.map_err(away)?;
    Ok(Json(json!({ "replayed": replayed })))
}

async fn set_limit(State(shop): State<Shop>, Path(cents): Path<u64>) -> StatusCode {
    shop.bank.set_limit(cents);
    StatusCode::NO_CONTENT
}

async fn ready(State(shop): State<Shop>) -> (StatusCode, String) {
    match shop.client.info().health {
        Health::Up => (StatusCode::OK, "ready\n".to_owned()),
        not => (StatusCode::SERVICE_UNAVAILABLE, format!("the broker is not: {not:?}\n")),
    }
}

enum Refusal {
    /// The request is wrong, and why.
    Bad(StatusCode, String),
    /// Later it may work.
    Away,
}

/// What went wrong behind the web is logged, and not told to the web.
fn away(error: impl Into<Error>) -> Refusal {
    eprintln!("orders: {}", error_chain(&error.into()));
    Refusal::Away
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            // The answer of `price` to such an order.
            CallError::Handler { message, .. } => Self::Bad(StatusCode::UNPROCESSABLE_ENTITY, message),
            other => away(other),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Bad(status, error) => (status, Json(json!({ "error": error }))).into_response(),
            Self::Away => {
                let body =
                    Json(json!({ "error": "the shop cannot be asked at the moment; try again later" }));
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], body).into_response()
            }
        }
    }
}
