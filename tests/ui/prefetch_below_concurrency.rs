use leveret::task;

#[task(queue = "q", concurrency = 8, prefetch = 4)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
