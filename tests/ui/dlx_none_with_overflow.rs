use leveret::task;

#[task(queue = "q", dlx = none, max_length = 5, overflow = "dead-letter")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
