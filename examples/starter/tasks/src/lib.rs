//! The tasks, and the database that the web application and the worker share.
//!
//! The web application depends on this crate to enqueue jobs, the worker to run them.

use std::time::Duration;

use async_trait::async_trait;
use leveret::{BoxError, Job, TaskError, TaskResult, task};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};

/// Opens the application's tables in this file, and creates what is missing. The jobs are in the same file.
pub async fn open(file: &str) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(10));
    let database = SqlitePool::connect_with(options).await?;
    sqlx::raw_sql(include_str!("schema.sql")).execute(&database).await?;
    Ok(database)
}

/// Sends mails. The worker has one that does, tests one that only notes them.
#[async_trait]
pub trait Mailer: Send + Sync {
    /// Sends one mail.
    async fn send(&self, to: &str, subject: &str) -> Result<(), MailError>;
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// A later attempt may succeed.
    #[error("the mail server is busy")]
    Busy,
    /// No attempt will succeed.
    #[error("there is no mailbox `{0}`")]
    NoMailbox(String),
}

/// Welcomes a new account.
///
/// A job may run twice, if its process ends at the wrong moment. So the task looks first at what it has done already.
#[task(queue = "mails", retries = 8, timeout = "30s")]
pub async fn send_welcome(mailer: &dyn Mailer, database: &SqlitePool, account: i64) -> TaskResult {
    let found: Option<(String, String, bool)> =
        sqlx::query_as("SELECT email, name, welcomed FROM account WHERE id = ?")
            .bind(account)
            .fetch_optional(database)
            .await?;
    let Some((email, name, welcomed)) = found else {
        return Err(TaskError::permanent(format!("there is no account {account}")).into());
    };
    if welcomed {
        return Ok(());
    }
    match mailer.send(&email, &format!("Welcome, {name}")).await {
        // A dead letter at once, where a person sees it.
        Err(error @ MailError::NoMailbox(_)) => return Err(TaskError::permanent(error).into()),
        // All other errors are tried again, after 1 s, 2 s, 4 s …
        sent => sent?,
    }
    sqlx::query("UPDATE account SET welcomed = 1 WHERE id = ?").bind(account).execute(database).await?;
    Ok(())
}

/// Adds an account and its welcome in one transaction: both are there afterwards, or neither.
pub async fn sign_up(database: &SqlitePool, email: &str, name: &str) -> Result<i64, SignUpError> {
    let mut transaction = database.begin().await?;
    let added = sqlx::query("INSERT INTO account (email, name) VALUES (?, ?)")
        .bind(email)
        .bind(name)
        .execute(&mut *transaction)
        .await;
    let account = match added {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Err(SignUpError::Taken),
        added => added?.last_insert_rowid(),
    };
    let job =
        Job::new(SendWelcome { account }).into_sql().map_err(|error| SignUpError::Failed(error.into()))?;
    let insert = job.params().into_iter().fold(sqlx::query(job.sql()), |query, value| query.bind(value));
    insert.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(account)
}

/// Why an account was not added.
#[derive(Debug, thiserror::Error)]
pub enum SignUpError {
    /// Another account has this address.
    #[error("an account has this email address already")]
    Taken,
    /// The database failed.
    #[error("the account could not be added")]
    Failed(#[source] BoxError),
}

impl From<sqlx::Error> for SignUpError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}
