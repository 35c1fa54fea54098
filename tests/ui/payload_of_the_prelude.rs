use leveret::task;

#[task(queue = "q", payload = String)]
async fn job(number: u32) {
    let _ = number;
}

fn main() {}
