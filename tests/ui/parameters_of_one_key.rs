use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, _number: u8) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
