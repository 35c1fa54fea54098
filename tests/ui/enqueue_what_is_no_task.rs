use leveret::{Client, EnqueueError};

async fn mistakes(client: &Client) -> Result<(), EnqueueError> {
    client.enqueue("send the email").await?;
    Ok(())
}

fn main() {
    drop(mistakes);
}
