use leveret::task;

#[task(queue = "q", max_retries = 5)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
