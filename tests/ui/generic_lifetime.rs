use leveret::task;

#[task(queue = "q")]
async fn job<'a>(number: u32, store: &'a String) {
    let _ = (number, store);
}

fn main() {}
