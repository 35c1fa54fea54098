use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, #[serde(default)] store: &String) {
    let _ = (number, store);
}

fn main() {
    drop(Job { number: 1 });
}
