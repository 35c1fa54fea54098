//! What an order costs. The web asks, and waits for the answer: an RPC.

use leveret::task;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is ordered, and how often. `JsonSchema` is for `orders asyncapi`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) count: u64,
}

/// Why there is no price. The caller gets the words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPrice {
    #[error("there is no `{0}` in this shop")]
    Unknown(String),
    #[error("`items` is empty: order at least one")]
    Nothing,
    #[error("nobody can pay that much")]
    TooMuch,
}

/// In cents.
#[task(queue = "shop.prices", concurrency = 10)]
pub(crate) async fn price(items: Vec<Item>) -> Result<u64, NoPrice> {
    let mut total: u64 = 0;
    for item in &items {
        let cents: u64 = match &*item.name {
            "tea" => 350,
            "cake" => 1_500,
            _ => return Err(NoPrice::Unknown(item.name.clone())),
        };
        let cost = cents.checked_mul(item.count).ok_or(NoPrice::TooMuch)?;
        total = total.checked_add(cost).ok_or(NoPrice::TooMuch)?;
    }
    if total == 0 { Err(NoPrice::Nothing) } else { Ok(total) }
}
