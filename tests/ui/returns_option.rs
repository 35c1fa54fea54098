use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> Option<u32> {
    Some(number)
}

fn main() {
    drop(Job { number: 1 });
}
