use leveret::{RawMessage, subscriber};

#[subscriber(queue = "q", exchange = "", aliases = ["old"])]
async fn on_message(message: RawMessage) {
    drop(message);
}

fn main() {}
