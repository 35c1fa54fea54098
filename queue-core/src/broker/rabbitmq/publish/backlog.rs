//! The messages to be sent: single messages in the order of their arrival, and batches. They take turns, so that no caller
//! waits for the whole of another's batch. Owned by `publisher`.
//!
//! Here a message's time is up when the broker has answered nothing for the whole publish timeout: to single messages
//! nothing at all, to a batch nothing of the batch. How long a batch takes on the whole is of no matter.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::outgoing::{Outgoing, Remainder};

/// The messages that are not on their way.
pub(super) struct Backlog {
    /// Messages to be sent again, and behind them single messages.
    pub(super) singles: VecDeque<Outgoing>,
    batches: VecDeque<Remainder>,
    /// True if the next one is a batch's, where both wait.
    is_batch_next: bool,
    /// When the broker last answered anything.
    progress: Instant,
}

impl Backlog {
    pub(super) fn new() -> Self {
        let progress = Instant::now();
        Self { singles: VecDeque::new(), batches: VecDeque::new(), is_batch_next: false, progress }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.singles.is_empty() && self.batches.is_empty()
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.singles.push_back(outgoing);
    }

    pub(super) fn push_batch(&mut self, batch: Remainder) {
        self.batches.push_back(batch);
    }

    /// The broker has answered something.
    pub(super) fn progressed(&mut self) {
        self.progress = Instant::now();
    }

    /// True if the next one [wants a confirm](Outgoing::wants_confirm); `None` if there is none.
    pub(super) fn next_wants_confirm(&self) -> Option<bool> {
        if self.is_turn_of_batch() { Some(true) } else { self.singles.front().map(|next| next.wants_confirm) }
    }

    /// The next one to be sent. Its time begins anew if the broker has answered since it came.
    pub(super) fn take_next(&mut self) -> Option<Outgoing> {
        let is_turn_of_batch = self.is_turn_of_batch();
        self.is_batch_next = !is_turn_of_batch;
        if !is_turn_of_batch {
            let mut next = self.singles.pop_front()?;
            if !next.sent {
                next.since = next.since.max(self.progress);
            }
            return Some(next);
        }
        let mut batch = self.batches.pop_front()?;
        let next = batch.take();
        if !batch.is_empty() {
            self.batches.push_back(batch);
        }
        next
    }

    fn is_turn_of_batch(&self) -> bool {
        match self.singles.front() {
            // What was sent before comes first: it stood before the rest of its batch.
            Some(first) => self.is_batch_next && !first.sent && !self.batches.is_empty(),
            None => !self.batches.is_empty(),
        }
    }

    /// When the first one's time is up.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let single = self.singles.iter().find(|outgoing| !outgoing.is_told);
        let single = single.map(|outgoing| outgoing.since.max(self.progress));
        let batches = self.batches.iter().map(Remainder::since);
        single.into_iter().chain(batches).min().map(|since| since + timeout)
    }

    /// Takes out those whose time is up.
    pub(super) fn expired(&mut self, timeout: Duration) -> Vec<Outgoing> {
        let now = Instant::now();
        let is_up = |since: Instant| now >= since + timeout;
        let mut expired = Vec::new();
        while self.singles.front().is_some_and(|first| is_up(first.since.max(self.progress))) {
            expired.extend(self.singles.pop_front());
        }
        self.batches.retain_mut(|batch| {
            let is_up = is_up(batch.since());
            if is_up {
                expired.extend(std::iter::from_fn(|| batch.take()));
            }
            !is_up
        });
        expired
    }

    /// Takes out all.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Outgoing> + use<> {
        let batches = std::mem::take(&mut self.batches);
        let rest = |mut batch: Remainder| std::iter::from_fn(move || batch.take());
        std::mem::take(&mut self.singles).into_iter().chain(batches.into_iter().flat_map(rest))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::outgoing::One;
    use super::*;
    use crate::broker::Publish;
    use crate::envelope::Envelope;

    fn publish(text: &str) -> Publish {
        Publish::to_queue("q", Envelope::new(text.to_owned()))
    }

    fn single(text: &str) -> Outgoing {
        let one = One { publish: Box::new(publish(text)), reply: oneshot::channel().0, wants_confirm: true };
        Outgoing::one(one, 0)
    }

    fn batch(texts: &[&str]) -> Remainder {
        Remainder::new(texts.iter().map(|text| publish(text)).collect(), oneshot::channel().0, 0)
    }

    fn text(outgoing: &Outgoing) -> String {
        String::from_utf8_lossy(&outgoing.publish().envelope.payload).into_owned()
    }

    fn texts(backlog: &mut Backlog) -> String {
        std::iter::from_fn(|| backlog.take_next()).map(|next| text(&next)).collect()
    }

    #[test]
    fn batches_take_turns_with_each_other_and_with_single_messages() {
        let mut backlog = Backlog::new();
        backlog.push_batch(batch(&["a", "b", "c", "d"]));
        backlog.push_batch(batch(&["1", "2"]));
        ["x", "y", "z"].into_iter().for_each(|text| backlog.push(single(text)));

        assert_eq!(texts(&mut backlog), "xay1zb2cd");
        assert!(backlog.is_empty());
    }

    #[test]
    fn what_is_sent_again_comes_first() {
        let mut backlog = Backlog::new();
        backlog.push_batch(batch(&["a", "b", "c"]));
        let mut again: Vec<_> = (0..2).filter_map(|_| backlog.take_next()).collect();
        again.iter_mut().for_each(|outgoing| outgoing.sent = true);
        again.into_iter().rev().for_each(|outgoing| backlog.singles.push_front(outgoing));
        backlog.push(single("x"));

        let order = texts(&mut backlog);

        assert!(["abcx", "abxc"].contains(&&*order), "{order}");
    }

    #[test]
    fn time_begins_anew_with_each_answer() {
        let timeout = Duration::from_millis(1);
        let mut backlog = Backlog::new();
        backlog.push(single("x"));
        backlog.push_batch(batch(&["a", "b"]));
        let mut answered = backlog.batches[0].take().unwrap();
        std::thread::sleep(2 * timeout);

        answered.tell_confirmed(true);
        backlog.progressed();
        let far = Duration::from_secs(3600);
        assert!(backlog.deadline(far).is_some_and(|at| at > answered.since + far + timeout));
        assert!(backlog.expired(far).is_empty());

        std::thread::sleep(2 * timeout);
        let expired: Vec<_> = backlog.expired(timeout).iter().map(text).collect();
        assert_eq!(expired, ["x", "b"]);
    }
}
