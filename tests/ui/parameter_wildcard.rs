use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, _: u8) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
