//! Deletes dead letters that an operator picks.

use super::DeadLetter;
use super::interrupted::Interrupted;
use super::replay::{PAGES, next_page};
use crate::broker::{Found, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::settlement::Settlement;

/// Discards up to `limit` of the letters that `choose` picks, and returns their number.
///
/// # Errors
/// If the queue or the broker goes away, with how many were discarded before.
pub(super) async fn discard(
    walk: &mut dyn Walk,
    limit: usize,
    choose: impl FnMut(&DeadLetter) -> bool + Send,
) -> Result<usize, Interrupted> {
    let mut discarded = 0;
    match go(walk, limit, choose, &mut discarded).await {
        Ok(()) => Ok(discarded),
        Err(error) => Err(Interrupted::new(discarded, "discarded", error)),
    }
}

async fn go(
    walk: &mut dyn Walk,
    limit: usize,
    mut choose: impl FnMut(&DeadLetter) -> bool + Send,
    discarded: &mut usize,
) -> Result<()> {
    let (mut page, _) = PAGES;
    while *discarded < limit {
        let found = walk.next(page).await?;
        if found.is_empty() {
            break;
        }
        page = next_page(page, found.iter().map(|found| found.envelope.payload.len()));
        for found in found {
            if *discarded < limit && choose(&DeadLetter::new(&found.envelope)) {
                *discarded += usize::from(one(walk, found).await?);
            }
        }
    }
    Ok(())
}

/// Discards one letter; `false` if another operator or consumer was quicker.
async fn one(walk: &mut dyn Walk, found: Found) -> Result<bool> {
    let id = found.envelope.id.clone();
    let Some(delivery) = walk.take(found).await? else { return Ok(false) };
    delivery.settle(Settlement::Ack).await.map_err(|error| {
        let words = format!("dead letter `{id}` could not be discarded, and stays");
        Error::new(ErrorKind::Connection, words).with_source(error)
    })?;
    Ok(true)
}
