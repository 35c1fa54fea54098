//! The tasks as one would write them without Leveret: a struct for each payload, and a table that decodes JSON and runs the function.
//! Runs each of them once.

use std::pin::Pin;

use leveret::BoxError;
use many_tasks::{BODY, deliver};
use serde::{Deserialize, Serialize};

include!(concat!(env!("OUT_DIR"), "/tasks_by_hand.rs"));

/// Decodes a payload, and runs its function.
type Handler = fn(Vec<u8>) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    for (name, run) in TABLE {
        run(BODY.into()).await.map_err(|error| format!("{name}: {error}"))?;
    }
    println!("{0} of {0} tasks ran", TABLE.len());
    Ok(())
}
