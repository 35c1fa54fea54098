use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, count: &mut u64) {
    *count += u64::from(number);
}

fn main() {
    drop(Job { number: 1 });
}
