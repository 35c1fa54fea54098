use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) -> impl Into<String> {
    number.to_string()
}

fn main() {
    drop(Job { number: 1 });
}
