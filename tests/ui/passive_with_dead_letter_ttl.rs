use leveret::task;

#[task(queue = "q", declare = "passive", dead_letter_queue = "dead", dead_letter_ttl = "1h")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
