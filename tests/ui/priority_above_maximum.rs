use leveret::task;

#[task(queue = "q", queue_type = "classic", max_priority = 5, priority = 6)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
