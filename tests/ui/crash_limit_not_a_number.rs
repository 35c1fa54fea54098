use leveret::task;

#[task(queue = "q", crash_limit = "3")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
