use leveret::{Client, EnqueueError, task};

#[task(queue = "q")]
async fn job() {}

async fn forgets(client: &Client) -> Result<(), EnqueueError> {
    client.enqueue(Job {})?;
    Ok(())
}

fn main() {
    let _ = forgets;
}
