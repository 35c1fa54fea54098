use leveret::task;

struct Job;

#[task(queue = "q")]
async fn job() {}

fn main() {}
