use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> Result<std::thread::Thread, String> {
    Err(number.to_string())
}

fn main() {
    drop(Job { number: 1 });
}
