use leveret::task;

#[task(queue = "q")]
async fn job<T>(number: u32, thing: T) {
    drop((number, thing));
}

fn main() {}
