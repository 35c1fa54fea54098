use leveret::task;

#[task(queue = "q")]
async fn job(number: u32) {
    let number = std::rc::Rc::new(number);
    std::future::ready(()).await;
    drop(number);
}

fn main() {
    drop(Job { number: 1 });
}
