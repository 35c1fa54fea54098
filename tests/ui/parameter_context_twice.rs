use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, one: &leveret::Context, two: &leveret::Context) {
    let _ = (number, one, two);
}

fn main() {
    drop(Job { number: 1 });
}
