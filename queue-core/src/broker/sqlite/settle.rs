//! Settles deliveries: each in one transaction, and only while the delivery is still ours.

use rusqlite::params;

use super::command::Ticket;
use super::state::State;
use super::{headers, row};
use crate::broker::Publish;
use crate::broker::amqp::{self, Plan, Published};
use crate::envelope::HeaderValue;
use crate::error::{PublishError, SettleError};

impl State {
    /// Carries a settlement out.
    pub(super) fn settle(
        &mut self,
        ticket: &Ticket,
        plan: &Plan,
    ) -> rusqlite::Result<Result<(), SettleError>> {
        if matches!(plan, Plan::Ack) && self.setup.keep.is_zero() {
            self.release_slot(ticket);
            return Ok(if self.delete_held(ticket)? { Ok(()) } else { Err(SettleError::Lost) });
        }
        if ticket.client != self.me || !self.is_held(ticket)? {
            self.release_slot(ticket);
            return Ok(Err(SettleError::Lost));
        }
        match plan {
            Plan::Ack => self.keep_finished(ticket)?,
            Plan::Drop { .. } => {}
            Plan::Release => {
                self.give_back(ticket)?;
                return Ok(Ok(()));
            }
            Plan::Delay { copy, due } => {
                let unroutable = self.unroutable.clone();
                amqp::delay_job(self, *due, ticket.queue_name.clone(), copy.clone(), unroutable)?;
            }
            Plan::Publish(copy) => {
                if let Err(error) = self.publish_copy(copy)? {
                    return Ok(Err(SettleError::Republish(error)));
                }
            }
        }
        self.delete_held(ticket)?;
        self.release_slot(ticket);
        Ok(Ok(()))
    }

    /// Publishes a dead letter; where it should go is declared again if this client had declared it and it was deleted.
    fn publish_copy(&mut self, copy: &Publish) -> rusqlite::Result<Result<(), PublishError>> {
        let publish = Published::from(copy.clone());
        let published = self.publish(&publish)?;
        if !matches!(published, Err(PublishError::Unroutable { .. })) {
            return Ok(published);
        }
        let Some(topology) = self.remembered.reaching(&copy.route) else { return Ok(published) };
        if let Err(error) = self.declare(&topology)? {
            amqp::tell_unrestored(&copy.route, &error);
            return Ok(published);
        }
        Ok(self.publish(&publish)?.inspect(|()| amqp::tell_restored(&copy.route)))
    }

    /// Deletes the job if the delivery is still ours, and says whether it was.
    fn delete_held(&self, ticket: &Ticket) -> rusqlite::Result<bool> {
        let deleted = self
            .connection
            .prepare_cached("DELETE FROM leveret_job WHERE job = ?1 AND client = ?2 AND returns = ?3")?
            .execute(params![ticket.job, ticket.client, ticket.returns])?;
        Ok(deleted > 0)
    }

    /// True if the delivery is still ours: no other client has taken us for dead and given the job to another.
    fn is_held(&self, ticket: &Ticket) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM leveret_job WHERE job = ?1 AND client = ?2 AND returns = ?3")?
            .exists(params![ticket.job, ticket.client, ticket.returns])
    }

    /// Writes a header into the job, if the delivery is still ours. Given back in order, the job is as it was before.
    pub(super) fn mark(
        &mut self,
        ticket: &Ticket,
        name: &str,
        value: &HeaderValue,
    ) -> rusqlite::Result<Result<(), SettleError>> {
        if ticket.client != self.me || !self.is_held(ticket)? {
            return Ok(Err(SettleError::Lost));
        }
        let text = self
            .connection
            .prepare_cached("SELECT headers FROM leveret_job WHERE job = ?1")?
            .query_row([ticket.job], |row| row::text(row, 0))?;
        let mut headers = text.map(|text| headers::read(&text)).unwrap_or_default();
        headers.insert(name, value.clone());
        self.connection
            .prepare_cached(
                "UPDATE leveret_job SET unmarked = coalesce(unmarked, headers, '{}'), headers = ?2 WHERE job = ?1",
            )?
            .execute(params![ticket.job, headers::write(&headers)])?;
        Ok(Ok(()))
    }

    /// Puts a delivery back into its queue, if it is still ours.
    pub(super) fn give_back(&mut self, ticket: &Ticket) -> rusqlite::Result<()> {
        self.release_slot(ticket);
        if ticket.client == self.me && self.is_held(ticket)? {
            self.put_back(ticket.queue, ticket.job, ticket.bytes)?;
            self.bury()?;
        }
        Ok(())
    }

    /// A job that is done stays as long as our URL says, for people who look into the file. Written down, because others of the file
    /// prune it too, whose URLs may say something else.
    fn keep_finished(&mut self, ticket: &Ticket) -> rusqlite::Result<()> {
        if self.setup.keep.is_zero() {
            return Ok(());
        }
        let now = self.now_micros();
        let kept = i64::try_from(self.setup.keep.as_micros()).unwrap_or(i64::MAX);
        let until = now.saturating_add(kept);
        self.connection
            .prepare_cached(
                "INSERT INTO leveret_finished \
                 (finished, finished_at, until, queue, id, task, payload, attempt, enqueued_at) \
                 SELECT job, ?2, ?3, ?4, id, task, payload, attempt, enqueued_at FROM leveret_job WHERE job = ?1",
            )?
            .execute(params![ticket.job, now, until, &*ticket.queue_name])?;
        self.deadlines.prune_after(until);
        Ok(())
    }
}
