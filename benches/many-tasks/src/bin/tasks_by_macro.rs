//! The tasks by `#[task]`. Runs each of them once, on the memory broker.

use leveret::{BoxError, Client, Properties, TaskResult, Worker};
use many_tasks::{BODY, deliver};

include!(concat!(env!("OUT_DIR"), "/tasks_by_macro.rs"));

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let client = Client::connect("memory:").await?;
    let worker = Worker::new(&client);
    worker.declare().await?;
    for name in NAMES {
        client.publish_raw("", "many", BODY, Properties::new().kind(*name)).await?;
    }
    let summary = worker.run_until_idle().await?;
    println!("{} of {} tasks ran", summary.succeeded, NAMES.len());
    Ok(())
}
