//! Shows a page of a queue: ready messages by a walk, and then the delayed ones.

use super::page::Part;
use super::{Browsed, Message, Page, PageToken};
use crate::broker::{Mark, Operator, Walk};
use crate::error::Result;

/// The most messages that are asked for at once.
const CHUNK: usize = 1024;

/// Shows a page of a queue.
///
/// # Errors
/// If the page is of another queue, the queue does not exist or may not be used, or the broker goes away.
pub(super) async fn browse(operator: &dyn Operator, queue: &str, page: Page) -> Result<Browsed> {
    let Page { size, after } = page;
    let (part, mark) = match after.as_ref().map(|token| token.place_in(queue)).transpose()? {
        None => (Part::Ready, None),
        Some((part, mark)) => (part, Some(mark)),
    };
    let mut messages = Vec::new();
    let mut delayed_after = mark;
    if part == Part::Ready {
        let mut walk = operator.walk(queue).await?;
        let walked = ready(&mut *walk, mark, size, &mut messages).await;
        walk.end().await;
        if let Some(mark) = walked? {
            return Ok(Browsed { messages, next: Some(PageToken::new(queue, Part::Ready, mark)) });
        }
        delayed_after = None;
    }
    let mut next = None;
    if operator.abilities().shows_delayed {
        let mark = delayed(operator, queue, delayed_after, size, &mut messages).await?;
        next = mark.map(|mark| PageToken::new(queue, Part::Delayed, mark));
    }
    Ok(Browsed { messages, next })
}

/// Adds the ready messages behind a mark, up to `size`, and returns the mark to continue from; `None` at the end of the queue.
async fn ready(
    walk: &mut dyn Walk,
    after: Option<Mark>,
    size: usize,
    messages: &mut Vec<Message>,
) -> Result<Option<Mark>> {
    if let Some(mark) = after {
        walk.go_to(mark).await?;
    }
    while messages.len() < size {
        let found = walk.next(chunk(size - messages.len())).await?;
        if found.is_empty() {
            return Ok(None);
        }
        messages.extend(found.iter().map(|found| Message::ready(&found.envelope)));
    }
    Ok(walk.mark())
}

/// Adds the delayed messages behind a mark until there are `size`, and returns the mark to continue from; `None` at the end.
async fn delayed(
    operator: &dyn Operator,
    queue: &str,
    mut after: Option<Mark>,
    size: usize,
    messages: &mut Vec<Message>,
) -> Result<Option<Mark>> {
    while messages.len() < size {
        let found = operator.delayed(queue, after, chunk(size - messages.len())).await?;
        let Some(last) = found.last() else { return Ok(None) };
        after = Some(last.mark);
        messages.extend(found.iter().map(|found| Message::delayed(&found.envelope, found.due)));
    }
    Ok(after)
}

fn chunk(count: usize) -> u16 {
    u16::try_from(count.min(CHUNK)).unwrap_or(u16::MAX)
}
