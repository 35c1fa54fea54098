//! Three jobs: one that works, one that fails twice first, and one that fails for good.
//!
//! `cargo run --example hello` needs no server. The same program runs on RabbitMQ:
//!
//! ```sh
//! LEVERET_URL=amqp://guest:guest@localhost/ cargo run --features rabbitmq --example hello
//! ```

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use leveret::{Client, Context, JobEvent, JobId, Worker, task};

/// Sends one email.
#[task(
    queue = "emails",
    dlx = "emails.dlx",
    retries = 5,
    backoff = "20ms",
    timeout = "30s",
    permanent(MailError::NoMailbox)
)]
async fn send_email(
    mailer: &Mailer,
    context: &Context,
    to: String,
    subject: String,
) -> Result<(), MailError> {
    mailer.send(&to, &subject, context.attempt())
}

/// Stands for a mail server. `grace@` is reachable from the third attempt on, `nobody@` never.
struct Mailer;

impl Mailer {
    fn send(&self, to: &str, subject: &str, attempt: u32) -> Result<(), MailError> {
        match to.split('@').next() {
            Some("nobody") => Err(MailError::NoMailbox),
            Some("grace") if attempt < 3 => Err(MailError::Busy),
            _ => {
                println!("{:13}{to:<18}  reads: {subject}", "");
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
enum MailError {
    /// A retry may help.
    Busy,
    /// No retry will help: `permanent(..)` above says so.
    NoMailbox,
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the mail server is busy",
            Self::NoMailbox => "there is no such mailbox",
        })
    }
}

impl std::error::Error for MailError {}

#[tokio::main]
async fn main() -> leveret::Result<()> {
    let client = Client::from_env().await?;
    let mut recipients = HashMap::new();
    for to in ["ada@example.com", "grace@example.com", "nobody@example.com"] {
        let job = SendEmail { to: to.to_owned(), subject: "hello".to_owned() };
        let id = client.enqueue(job).await?;
        println!("enqueued {id} for {to}");
        recipients.insert(id, to);
    }
    println!();

    let worker = Worker::new(&client).state(Mailer);
    let mut events = worker.events();
    let started = Instant::now();
    let tell = |id: &JobId, words: String| {
        let at = started.elapsed().as_secs_f64() * 1000.0;
        // A job that was in the queue before has only its id.
        let name = recipients.get(id).map_or_else(|| id.to_string(), ToString::to_string);
        println!("{at:8.1} ms  {name:<18}  {words}");
    };
    let watching = async {
        while let Some(event) = events.next().await {
            match event {
                JobEvent::Succeeded { job, .. } => {
                    tell(&job.id, format!("succeeded at attempt {}", job.attempt));
                }
                JobEvent::Retried { job, after, reason, .. } => {
                    tell(&job.id, format!("runs again in {after:.0?}: {reason}"));
                }
                JobEvent::Dead { job, reason, .. } => {
                    tell(&job.id, format!("is a dead letter: {reason}; it is kept in `emails.dead`"));
                }
                _ => {}
            }
        }
    };
    // Ends by itself when there is nothing left to do; a worker that stays calls `run`.
    let (summary, ()) = tokio::join!(worker.run_until_idle(), watching);

    println!("\n{}", summary?);
    client.close().await;
    Ok(())
}
