use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, to: impl Into<String>) {
    let _ = (number, to.into());
}

fn main() {
    drop(Job { number: 1 });
}
