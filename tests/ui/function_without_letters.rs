use leveret::task;

#[task(queue = "q")]
async fn __(number: u32) {
    let _ = number;
}

fn main() {}
