//! The code that both programs share, so that the compiler sees it once.

use std::hint::black_box;

/// A payload that each of the tasks takes.
pub const BODY: &str = r#"{"user": 7, "address": "ada@example.com", "note": null}"#;

/// Each of the tasks does this.
///
/// # Errors
/// Never; a task returns a `Result` as a rule.
pub async fn deliver(
    user: u64,
    address: String,
    note: Option<String>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    black_box((user, address, note));
    Ok(())
}
