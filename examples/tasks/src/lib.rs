//! Tasks in a library of their own: the web app depends on it to enqueue, the worker binary to run them.
//!
//! A binary that never mentions this crate does not link it, and has none of its tasks: `use example_tasks as _;`.

use std::time::{Duration, Instant};

use leveret::{Client, Context, EnqueueError, TaskError, TaskResult, task};

/// Stands for a mail server.
#[derive(Debug)]
pub struct Mailer {
    /// The address that mails come from.
    pub from: String,
}

impl Mailer {
    async fn send(&self, to: &str, subject: &str) -> TaskResult {
        if !to.contains('@') {
            // No retry will make it an address.
            return Err(TaskError::permanent(format!("`{to}` is not an address")).into());
        }
        tracing::info!(from = self.from, to, subject, "mail sent");
        Ok(())
    }
}

/// Welcomes a new customer.
#[task(queue = "example.mails", retries = 8, timeout = "30s", concurrency = 4)]
pub async fn send_welcome(mailer: &Mailer, to: String, name: String) -> TaskResult {
    mailer.send(&to, &format!("Welcome, {name}")).await
}

/// What the web app does when somebody signs up: it enqueues, and answers at once.
///
/// # Errors
/// If the broker did not take the job.
pub async fn sign_up(client: &Client, to: &str, name: &str) -> Result<(), EnqueueError> {
    client.enqueue(SendWelcome { to: to.into(), name: name.into() }).await?;
    Ok(())
}

/// Counts the primes below a number: a computation, so it is no `async fn` and runs on the blocking pool. Nobody
/// can stop a thread, so it asks from time to time whether it should go on.
#[task(queue = "example.sums", timeout = "1m")]
pub fn count_primes(context: &Context, below: u32) -> TaskResult {
    let start = Instant::now();
    let mut primes = 0_u32;
    for number in 2..below {
        if number % 1024 == 0 && context.is_cancelled() {
            return Err(TaskError::retry_in(Duration::from_secs(5), "stopped half-way").into());
        }
        primes += u32::from(
            (2..).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0),
        );
    }
    tracing::info!(primes, below, elapsed = ?start.elapsed(), "counted");
    Ok(())
}
