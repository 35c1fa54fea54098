use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, handle: std::thread::Thread) {
    let _ = (number, handle);
}

fn main() {}
