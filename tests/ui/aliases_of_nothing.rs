use leveret::task;

#[task(queue = "q", aliases = [])]
async fn job() {}

fn main() {}
