use leveret::task;

#[task(queue = 5, retires = 3, timeout = "30")]
async fn job(number: u32) {
    let _ = number;
}

fn main() {
    drop(Job { number: 1 });
}
