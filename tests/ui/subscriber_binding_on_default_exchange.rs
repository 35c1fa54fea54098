use leveret::{RawMessage, subscriber};

#[subscriber(queue = "q", exchange = "", kind = "direct", binding = "q")]
async fn on_message(message: RawMessage) {
    drop(message);
}

fn main() {}
