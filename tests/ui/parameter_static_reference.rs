use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, store: &'static String) {
    let _ = (number, store);
}

fn main() {
    drop(Job { number: 1 });
}
