use leveret::{Client, EnqueueError, task};

#[task(queue = "q")]
async fn job() {}

fn insert(client: &Client) -> Result<String, EnqueueError> {
    let job = client.enqueue(Job {}).into_sql()?;
    let _ = job.params();
    Ok(job.sql().to_owned())
}

fn main() {
    let _ = insert;
}
