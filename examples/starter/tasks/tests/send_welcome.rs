//! Unit tests of a task: no worker, and a clock that stands still until the test moves it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use leveret::testing::TestQueue;
use sqlx::sqlite::SqlitePool;
use tasks::{MailError, Mailer, SendWelcome};

/// Notes what it is to send. The first `failures` mails fail.
#[derive(Default)]
struct FakeMailer {
    failures: usize,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Mailer for FakeMailer {
    async fn send(&self, to: &str, subject: &str) -> Result<(), MailError> {
        if to.starts_with("nobody@") {
            return Err(MailError::NoMailbox(to.to_owned()));
        }
        let mut asked = self.asked.lock().unwrap();
        asked.push(format!("{to}: {subject}"));
        if asked.len() > self.failures { Ok(()) } else { Err(MailError::Busy) }
    }
}

/// A database of this test's own with one account, and its number.
async fn account(test: &str, email: &str) -> (SqlitePool, i64) {
    let folder = format!("{}/send_welcome-{test}", env!("CARGO_TARGET_TMPDIR"));
    // What the last run left, if there was one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let database = tasks::open(&format!("{folder}/app.db")).await.unwrap();
    let added = sqlx::query("INSERT INTO account (email, name) VALUES (?, 'Ada')").bind(email);
    let account = added.execute(&database).await.unwrap().last_insert_rowid();
    (database, account)
}

#[tokio::test]
async fn account_is_welcomed_once() {
    let (database, account) = account("once", "ada@example.com").await;
    let mailer = Arc::new(FakeMailer::default());
    let queue = TestQueue::new().state(database).shared::<dyn Mailer>(mailer.clone());

    // The same job twice, as after a crash.
    for _ in 0..2 {
        queue.client().enqueue(SendWelcome { account }).await.unwrap();
    }
    let outcomes = queue.drain().await;

    assert!(outcomes.iter().all(|outcome| outcome.is_success()), "{outcomes:?}");
    assert_eq!(*mailer.asked.lock().unwrap(), ["ada@example.com: Welcome, Ada"]);
}

#[tokio::test]
async fn busy_mail_server_is_asked_again_later() {
    let (database, account) = account("busy", "ada@example.com").await;
    let mailer = Arc::new(FakeMailer { failures: 1, ..FakeMailer::default() });
    let queue = TestQueue::new().state(database).shared::<dyn Mailer>(mailer.clone());

    queue.client().enqueue(SendWelcome { account }).await.unwrap();
    let first = queue.drain().await;
    let too_early = queue.drain().await;
    queue.advance(Duration::from_secs(2));
    let second = queue.drain().await;

    assert!(matches!(first[0].error(), Some(MailError::Busy)), "{first:?}");
    assert!(too_early.is_empty(), "{too_early:?}");
    assert!(second[0].is_success(), "{second:?}");
}

#[tokio::test]
async fn address_without_a_mailbox_is_a_dead_letter_at_once() {
    let (database, account) = account("nobody", "nobody@example.com").await;
    let queue = TestQueue::new().state(database).shared::<dyn Mailer>(Arc::new(FakeMailer::default()));

    queue.client().enqueue(SendWelcome { account }).await.unwrap();
    queue.drain().await;

    assert_eq!(queue.dead_letters::<SendWelcome>().len(), 1);
}
