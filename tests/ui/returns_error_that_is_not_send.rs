use std::error::Error;

use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> Result<(), Box<dyn Error>> {
    Err(number.to_string().into())
}

fn main() {
    drop(Job { number: 1 });
}
