use leveret::task;

#[task(queue = "q", ttl = "1.5s")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
