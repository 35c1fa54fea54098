//! Charging an order: a job, since it must be done even if this process dies over it.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret::{Context, ResultExt as _, TaskResult, task};

use crate::event::OrderPaid;

/// Where what could not be charged ends.
pub(crate) const DEAD_LETTERS: &str = "shop.charges.dead";

/// Charges an order, and tells the world. What the bank refuses is a dead letter at once: no retry will change its mind.
/// Any other error is tried again.
#[task(queue = "shop.charges", dlx = "shop.dlx", retries = 5, timeout = "30s")]
pub(crate) async fn charge(
    bank: &Bank,
    context: &Context,
    customer: String,
    region: String,
    cents: u64,
) -> TaskResult {
    let order = context.id().to_string();
    // A job may run twice, and its id stays the same: the bank charges a reference once.
    bank.charge(&order, cents).permanent()?;
    context.client().publish(OrderPaid { order, customer, region, cents }).await?;
    Ok(())
}

/// Stands for a bank's API.
pub(crate) struct Bank {
    limit: AtomicU64,
    charged: Mutex<HashSet<String>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the bank charges at most {limit} cents, and this order costs {cents}")]
pub(crate) struct OverTheLimit {
    cents: u64,
    limit: u64,
}

impl Bank {
    /// How much it charges at a time.
    pub(crate) fn set_limit(&self, cents: u64) {
        self.limit.store(cents, Ordering::Relaxed);
    }

    /// Charges once for each reference, however often it is asked to.
    fn charge(&self, reference: &str, cents: u64) -> Result<(), OverTheLimit> {
        let limit = self.limit.load(Ordering::Relaxed);
        if cents > limit {
            return Err(OverTheLimit { cents, limit });
        }
        if self.charged.lock().expect("nobody panicked").insert(reference.to_owned()) {
            println!("bank: charged {cents} cents");
        }
        Ok(())
    }
}

impl Default for Bank {
    fn default() -> Self {
        Self { limit: AtomicU64::new(10_000), charged: Mutex::default() }
    }
}
