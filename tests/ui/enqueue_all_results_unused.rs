#![deny(unused_must_use)]

use leveret::{Client, task};

#[task(queue = "q")]
async fn job() {}

async fn forgets(client: &Client) {
    client.enqueue_all([Job {}]).await;
}

fn main() {
    let _ = forgets;
}
