use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, context: leveret::Context) {
    let _ = (number, context);
}

fn main() {
    drop(Job { number: 1 });
}
