use leveret::task;

#[task(queue = "q", backoff = exponential("10s", max = "1s"))]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
