use leveret::task;

#[task(queue = "q")]
async fn job(number: u32);

fn main() {}
