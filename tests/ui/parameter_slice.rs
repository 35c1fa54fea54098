use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, bytes: &[u8]) {
    let _ = (number, bytes);
}

fn main() {
    drop(Job { number: 1, bytes: vec![1] });
}
