use leveret::task;

#[task(queue = "q", max_priority = 10)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
