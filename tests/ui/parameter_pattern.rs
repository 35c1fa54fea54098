use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, (a, b): (u8, u8)) {
    let _ = (number, a, b);
}

fn main() {
    drop(Job { number: 1 });
}
