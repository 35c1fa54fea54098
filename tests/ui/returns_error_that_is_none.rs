use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> Result<(), u32> {
    Err(number)
}

fn main() {
    drop(Job { number: 1 });
}
