use leveret::task;

#[task(queue = "q", ignore_result = true)]
async fn job() {}

fn main() {}
