use leveret::task;

struct Sender;

impl Sender {
    #[task(queue = "q")]
    async fn send(&self, to: String) {
        drop(to);
    }
}

fn main() {
    drop(Sender.send(String::new()));
}
