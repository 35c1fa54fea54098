use leveret::task;

#[task(queue = "q", dlx = none, dead_letter_ttl = "7d")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
