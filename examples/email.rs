//! Enqueues one job, and works what is there until Ctrl-C.

use leveret::{Client, TaskResult, Worker, task};

struct Mailer;

impl Mailer {
    async fn send(&self, to: &str, subject: &str) -> TaskResult {
        println!("{to} reads: {subject}");
        Ok(())
    }
}

#[task(queue = "emails", dlx = "emails.dlx", retries = 5, timeout = "30s")]
async fn send_email(mailer: &Mailer, to: String, subject: String) -> TaskResult {
    mailer.send(&to, &subject).await
}

#[tokio::main]
async fn main() -> leveret::Result<()> {
    tracing_subscriber::fmt().compact().with_env_filter("info,lapin=off").init();

    let client = Client::connect("memory:").await?;
    client.enqueue(SendEmail { to: "ada@example.com".into(), subject: "hello".into() }).await?;
    Worker::new(&client).state(Mailer).run().await
}
