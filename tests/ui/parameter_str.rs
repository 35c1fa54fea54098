use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, to: &str) {
    let _ = (number, to);
}

fn main() {
    drop(Job { number: 1, to: "ada".to_owned() });
}
