#![deny(unused_must_use)]

use leveret::{Client, task};

#[task(queue = "q")]
async fn job() {}

async fn forgets(client: &Client) {
    client.enqueue(Job {});
}

fn main() {
    let _ = forgets;
}
