//! A request from the web to the mail, on a file as in production.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use leveret::{Client, JobEvent, Worker};
use tasks::{MailError, Mailer};
use tower::ServiceExt as _;
use web::{App, routes};

#[derive(Default)]
struct FakeMailer(Mutex<Vec<String>>);

#[async_trait]
impl Mailer for FakeMailer {
    async fn send(&self, to: &str, subject: &str) -> Result<(), MailError> {
        self.0.lock().unwrap().push(format!("{to}: {subject}"));
        Ok(())
    }
}

/// The application on a file of this test's own.
async fn app(test: &str) -> App {
    let folder = format!("{}/sign_up-{test}", env!("CARGO_TARGET_TMPDIR"));
    // What the last run left, if there was one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let file = format!("{folder}/app.db");
    let database = tasks::open(&file).await.unwrap();
    App { database, client: Client::connect(&format!("sqlite:{file}")).await.unwrap() }
}

/// Asks for an account, without a socket.
async fn sign_up(app: &App) -> StatusCode {
    let request = Request::post("/accounts")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"email": "ada@example.com", "name": "Ada"}"#))
        .unwrap();
    routes(app.clone()).oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn who_signs_up_is_welcomed() {
    let app = app("welcome").await;
    let mailer = Arc::new(FakeMailer::default());
    let worker = Worker::new(&app.client)
        .state(app.database.clone())
        .shared::<dyn Mailer>(mailer.clone())
        .signals(false);
    let (mut events, handle) = (worker.events(), worker.handle());
    let working = tokio::spawn(worker.run());

    assert_eq!(sign_up(&app).await, StatusCode::CREATED);
    while let Some(event) = events.next().await {
        match event {
            JobEvent::Started { .. } => {}
            JobEvent::Succeeded { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    handle.shutdown();
    working.await.unwrap().unwrap();

    assert_eq!(*mailer.0.lock().unwrap(), ["ada@example.com: Welcome, Ada"]);
}

#[tokio::test]
async fn address_that_is_taken_adds_neither_account_nor_job() {
    let app = app("taken").await;

    assert_eq!(sign_up(&app).await, StatusCode::CREATED);
    assert_eq!(sign_up(&app).await, StatusCode::CONFLICT);

    // No worker has declared the queue yet, so the job still waits where the transaction left it.
    let count: (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM leveret_outbox)")
            .fetch_one(&app.database)
            .await
            .unwrap();
    assert_eq!(count, (1, 1));
}
