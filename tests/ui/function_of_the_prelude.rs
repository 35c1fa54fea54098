use leveret::task;

#[task(queue = "q")]
async fn string(number: u32) {
    let _ = number;
}

fn main() {}
