use leveret::{BoxError, task};
use serde_json::Value;

fn add_unit(_: u32, payload: Value) -> Result<Value, BoxError> {
    Ok(payload)
}

#[task(queue = "q", version = 2, upcast = "add_unit")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
