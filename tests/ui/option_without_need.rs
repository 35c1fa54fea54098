use leveret::task;

#[task(queue = "q", durable = true)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
