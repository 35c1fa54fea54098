//! Takes jobs and events that were inserted by SQL into the queues of this file: a step in each transaction, so that no command
//! waits long for a bulk insert, and none for rows that no queue can take.

use std::time::SystemTime;

use super::inserted::Waiting;
use super::outbox_table::{self, AGAIN, Entry, STEP, Target};
use super::row::{micros, micros_after};
use super::state::State;
use crate::broker::amqp::Published;

impl State {
    /// Puts a step of what others have inserted into the queues, in its order for each queue. What a queue cannot take
    /// waits, and so does what is behind it for the same queue. Called once in a transaction.
    pub(super) fn take_in_outbox(&mut self) -> rusqlite::Result<()> {
        if !self.has_inserted && !self.deadlines.is_outbox_due(self.now) {
            return Ok(());
        }
        if std::mem::take(&mut self.has_inserted) && self.intake.at.is_some() {
            // It may be for a queue that the walk has passed.
            self.intake.is_to_be_repeated = true;
        }
        let mut left = STEP;
        while left > 0 {
            let Some(target) = outbox_table::next_target(&self.connection, self.intake.at.as_ref())? else {
                let is_to_be_repeated = self.end_walk();
                if is_to_be_repeated && left == STEP {
                    continue;
                }
                return Ok(());
            };
            let looked_at =
                if self.is_waiting(&target, self.now) { 0 } else { self.take_from(&target, left)? };
            if let Some(waiting) = self.intake.waiting.get_mut(&target) {
                waiting.walk = self.intake.walk;
            }
            // To look for a queue is work too.
            left = left.saturating_sub(looked_at.max(1));
            self.intake.at = Some(target);
        }
        self.go_on_soon();
        Ok(())
    }

    /// True if others have inserted something that may be taken now.
    pub(super) fn has_outbox(&self) -> rusqlite::Result<bool> {
        let now = self.setup.clock.now();
        let mut at = None;
        for _ in 0..STEP {
            match outbox_table::next_target(&self.connection, at.as_ref())? {
                None => return Ok(false),
                Some(target) if self.is_waiting(&target, now) => at = Some(target),
                Some(_) => return Ok(true),
            }
        }
        // So many queues are looked through in steps.
        Ok(true)
    }

    fn is_waiting(&self, target: &Target, now: SystemTime) -> bool {
        let Some(waiting) = self.intake.waiting.get(target) else { return false };
        match waiting.until {
            None => !self.is_declared(target),
            // A clock that is set back lets nothing wait for hours.
            Some(until) => micros(now) < until && until <= micros_after(now + AGAIN),
        }
    }

    fn is_declared(&self, target: &Target) -> bool {
        target.queue().is_some_and(|name| self.names.contains_key(name))
            || target.exchange().is_some_and(|name| self.exchanges.get(name).is_some())
    }

    /// Takes at most `limit` rows for a queue, and says how many it has looked at.
    fn take_from(&mut self, target: &Target, limit: usize) -> rusqlite::Result<usize> {
        // A queue that did not take its first row is asked by that alone.
        let limit = if self.intake.waiting.contains_key(target) { 1 } else { limit };
        let (entries, is_all) = outbox_table::entries(&self.connection, target, limit)?;
        let looked_at = entries.len();
        for Entry { number, publish } in entries {
            let publish = match publish {
                Ok(publish) => Published::from(publish),
                Err(reason) => {
                    self.refuse_entry(target, number, &reason)?;
                    continue;
                }
            };
            if !self.is_declared(target) {
                if self.wait_for(target, None) {
                    tracing::warn!(
                        queue = target.queue(),
                        exchange = target.exchange(),
                        id = publish.message.envelope.id.as_str(),
                        "a message inserted by SQL waits for its queue or exchange to be declared"
                    );
                }
                return Ok(looked_at);
            }
            match self.publish(&publish)? {
                Ok(()) => outbox_table::remove(&self.connection, number)?,
                Err(error) if outbox_table::is_for_good(&error) => {
                    self.refuse_entry(target, number, &error.to_string())?;
                }
                Err(error) => {
                    tracing::debug!(%target, %error, "a message inserted by SQL waits");
                    self.wait_for(target, Some(micros_after(self.now + AGAIN)));
                    return Ok(looked_at);
                }
            }
        }
        self.intake.waiting.remove(target);
        self.intake.is_to_be_repeated |= !is_all;
        Ok(looked_at)
    }

    fn refuse_entry(&self, target: &Target, number: i64, reason: &str) -> rusqlite::Result<()> {
        outbox_table::set_aside(&self.connection, number, reason)?;
        outbox_table::tell(target, number, reason);
        Ok(())
    }

    /// Lets a queue's rows wait, and says whether they have just begun to.
    fn wait_for(&mut self, target: &Target, until: Option<i64>) -> bool {
        let waiting = Waiting { until, walk: self.intake.walk };
        self.intake.waiting.insert(target.clone(), waiting).is_none()
    }

    /// True if it is to be repeated.
    fn end_walk(&mut self) -> bool {
        let intake = &mut self.intake;
        intake.waiting.retain(|_, waiting| waiting.walk == intake.walk);
        intake.walk += 1;
        intake.at = None;
        let is_to_be_repeated = std::mem::take(&mut intake.is_to_be_repeated);
        if is_to_be_repeated {
            self.go_on_soon();
        } else {
            let again = intake.waiting.values().filter_map(|waiting| waiting.until).min();
            self.deadlines.outbox_at(again);
        }
        is_to_be_repeated
    }

    /// In the next transaction, which comes at once.
    pub(super) fn go_on_soon(&mut self) {
        self.deadlines.outbox_at(Some(0));
    }
}
