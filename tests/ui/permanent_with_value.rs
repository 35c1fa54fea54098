use leveret::task;

#[derive(Debug)]
enum MailError {
    Banned,
}

impl std::fmt::Display for MailError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("banned")
    }
}

impl std::error::Error for MailError {}

#[task(queue = "q", permanent = MailError::Banned)]
async fn job(number: u32) -> Result<(), MailError> {
    if number == 0 { Err(MailError::Banned) } else { Ok(()) }
}

fn main() {
    drop(Job { number: 1 });
}
