use leveret::task;

#[task(queue = "q", dead_letter_queue = "q")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
