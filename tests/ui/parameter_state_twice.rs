use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, one: &String, two: &String) {
    let _ = (number, one, two);
}

fn main() {
    drop(Job { number: 1 });
}
