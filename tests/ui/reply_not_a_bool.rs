use leveret::task;

#[task(queue = "q", reply = "never")]
async fn job() {}

fn main() {}
