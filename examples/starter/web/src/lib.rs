//! The web application. `main.rs` starts it; the tests ask it without a socket.
//!
//! | request | answer |
//! |---|---|
//! | `POST /accounts` with `{"email": "…", "name": "…"}` | 201 and the account; its welcome is enqueued |
//! | | 409: an account has this address already |
//! | `GET /healthz` | 200: the process lives |
//! | `GET /readyz` | 200 while jobs can be enqueued, or else 503 and why |

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use leveret::{Client, Health, error_chain};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqlitePool;
use tasks::SignUpError;

/// The state that handlers share.
#[derive(Clone)]
pub struct App {
    pub database: SqlitePool,
    pub client: Client,
}

#[derive(Deserialize)]
struct NewAccount {
    email: String,
    name: String,
}

#[derive(Serialize)]
struct Account {
    account: i64,
}

pub fn routes(app: App) -> Router {
    Router::new()
        .route("/accounts", post(sign_up))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(app)
}

async fn sign_up(
    State(app): State<App>,
    Json(new): Json<NewAccount>,
) -> Result<(StatusCode, Json<Account>), (StatusCode, String)> {
    match tasks::sign_up(&app.database, &new.email, &new.name).await {
        Ok(account) => Ok((StatusCode::CREATED, Json(Account { account }))),
        Err(error @ SignUpError::Taken) => Err((StatusCode::CONFLICT, format!("{error}\n"))),
        Err(error) => {
            tracing::error!("{}", error_chain(&error));
            Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
        }
    }
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    match app.client.info().health {
        Health::Up => (StatusCode::OK, "ready\n".to_owned()),
        Health::Blocked(reason) | Health::Down(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
        }
        other => (StatusCode::SERVICE_UNAVAILABLE, format!("{other:?}\n")),
    }
}
