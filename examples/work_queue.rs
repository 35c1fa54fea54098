//! The work queue of the AMQP tutorials: publish jobs here, work them there, on as many machines as you like.
//!
//! ```sh
//! export LEVERET_URL=amqp://guest:guest@localhost/
//! cargo run --features rabbitmq --example work_queue publish 10
//! cargo run --features rabbitmq --example work_queue work --concurrency 4    # until Ctrl-C
//! ```
//!
//! The queue is declared as a Pika tutorial does it: durable, classic, no arguments. So either side may come first,
//! and either may publish. On `memory:`, which ends with the process, `publish` works its jobs at once.

use std::process::ExitCode;

use leveret::{Client, Worker, task};

/// One task of the tutorial.
#[task(queue = "task_queue", queue_type = "classic", prefetch = 1)]
async fn process(task_id: u64, payload: String, priority: u8) {
    println!("Task {task_id} begins: {payload}, priority {priority}");
    // Whatever takes its time.
    println!("Task {task_id} complete");
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["publish", count] => match count.parse() {
            Ok(count) => publish(count).await,
            Err(_) => return usage(),
        },
        ["work"] => work(1).await,
        ["work", "--concurrency", jobs] => match jobs.parse() {
            Ok(jobs) if jobs > 0 => work(jobs).await,
            _ => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("work_queue: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: work_queue publish N | work_queue work [--concurrency N]");
    ExitCode::from(2)
}

async fn publish(count: u64) -> Result<(), leveret::BoxError> {
    let client = Client::from_env().await?;
    let jobs = (1..=count).map(|task_id| Process {
        task_id,
        payload: format!("data {task_id}"),
        priority: u8::try_from(task_id % 3).unwrap_or_default(),
    });
    client.enqueue_all(jobs).await.all_ok()?;
    println!("published {count} tasks");
    if client.info().system == "memory" {
        Worker::new(&client).run_until_idle().await?;
    }
    client.close().await;
    Ok(())
}

async fn work(concurrency: u16) -> Result<(), leveret::BoxError> {
    let client = Client::from_env().await?;
    if client.info().system == "memory" {
        println!("`memory:` ends with its process, so nobody can publish to this one; set LEVERET_URL");
    }
    println!("waiting for tasks; Ctrl-C ends");
    Worker::new(&client).concurrency(concurrency).run().await?;
    client.close().await;
    Ok(())
}
