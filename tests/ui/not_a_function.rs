use leveret::task;

#[task(queue = "q")]
struct Job {
    number: u32,
}

fn main() {
    drop(Job { number: 1 }.number);
}
