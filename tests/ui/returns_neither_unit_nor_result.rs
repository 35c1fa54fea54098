use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> u32 {
    number
}

fn main() {
    drop(Job { number: 1 });
}
