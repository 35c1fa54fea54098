use leveret::task;

#[task(queue = "q", aliases = ["old", "older", "old"])]
async fn job() {}

fn main() {}
