//! Durable jobs without a server: enqueue, kill the worker, run again, and nothing is lost.
//!
//! ```sh
//! cargo run --features sqlite --example sqlite            # all of it, on a file of its own
//!
//! export LEVERET_URL='sqlite:jobs.db?keep=1d&lease=5s'    # or by hand, in several terminals
//! cargo run --features sqlite --example sqlite enqueue 100
//! cargo run --features sqlite --example sqlite work       # until Ctrl-C, or `kill -9`
//! sqlite3 jobs.db 'SELECT id, task, payload, client FROM leveret_job'
//! ```

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use leveret::{BoxError, Client, Worker, task};

/// Renders one picture.
#[task(queue = "pictures", concurrency = 4)]
async fn render(picture: u32) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    println!("rendered {picture}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] => show().await,
        ["enqueue", count] => match count.parse() {
            Ok(count) => enqueue(count).await,
            Err(_) => return usage(),
        },
        ["work"] => work().await,
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sqlite: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: sqlite [enqueue COUNT | work]");
    ExitCode::from(2)
}

async fn enqueue(count: u32) -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    client.enqueue_all((0..count).map(|picture| Render { picture })).await.all_ok()?;
    println!("enqueued {count}; they are on the disk");
    client.close().await;
    Ok(())
}

async fn work() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    Worker::new(&client).run().await?;
    client.close().await;
    Ok(())
}

/// Enqueues, starts a worker as another program, kills it in the middle, and lets a second one finish.
async fn show() -> Result<(), BoxError> {
    const JOBS: usize = 100;
    let file = std::env::temp_dir().join(format!("leveret-example-{}.db", std::process::id()));
    // A short lease, so that the show is short: so long the killed worker's jobs wait for another.
    let url = format!("sqlite:{}?lease=2s", file.display());
    let program = |role: &str| {
        let mut program = Command::new(std::env::current_exe()?);
        program.args(role.split(' ')).env("LEVERET_URL", &url).stdout(Stdio::piped()).spawn()
    };
    let mut rendered = std::collections::BTreeSet::new();
    let mut note = |line: &str| rendered.extend(line.strip_prefix("rendered ").map(str::to_owned));

    let mut enqueuing = program("enqueue 100")?;
    enqueuing.wait()?;
    println!("enqueued {JOBS} jobs into {}", file.display());

    let mut killed = program("work")?;
    let mut lines = BufReader::new(killed.stdout.take().ok_or("no output")?).lines();
    for line in lines.by_ref().take(JOBS / 3) {
        note(&line?);
    }
    killed.kill()?;
    killed.wait()?;
    for line in lines {
        note(&line?);
    }
    println!("killed the worker after {} jobs", JOBS / 3);

    let mut second = program("work")?;
    let client = Client::connect(&url).await?;
    loop {
        let depth = client.depth::<Render>().await?;
        if depth.ready == 0 && depth.unsettled == Some(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.kill()?;
    for line in BufReader::new(second.stdout.take().ok_or("no output")?).lines() {
        note(&line?);
    }
    second.wait()?;
    let lost = JOBS - rendered.len();
    println!("a second worker did the others: {} of {JOBS} are done, {lost} are lost", rendered.len());

    client.close().await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    if rendered.len() == JOBS { Ok(()) } else { Err("some jobs were lost".into()) }
}
