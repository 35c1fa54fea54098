use leveret::task;

#[task(queue = "q", aliases = ["old", "job"])]
async fn job() {}

fn main() {}
