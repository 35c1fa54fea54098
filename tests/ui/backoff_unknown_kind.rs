use leveret::task;

#[task(queue = "q", backoff = linear("1s"))]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
