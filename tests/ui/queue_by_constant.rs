use leveret::task;

const QUEUE: &str = "q";

#[task(queue = QUEUE)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
