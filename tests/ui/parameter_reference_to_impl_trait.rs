use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, store: &impl std::fmt::Debug) {
    let _ = (number, store);
}

fn main() {
    drop(Job { number: 1 });
}
