use leveret::task;

#[task(queue = "q", aliases = "old")]
async fn job() {}

fn main() {}
