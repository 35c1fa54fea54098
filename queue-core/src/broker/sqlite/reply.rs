//! Direct replies. They pass through no queue: a reply is handed to its caller, or dropped. One whose caller is
//! another program waits in a table of its own until that one picks it up, some milliseconds later; no task waits for
//! the disk, since a reply dies with its caller anyway.

use rusqlite::{ToSql, params};

use super::ids::ConsumerId;
use super::queues::bind;
use super::row::{self, Values};
use super::state::State;
use super::subscription::ReplyConsumer;
use crate::broker::ConsumerHandle;
use crate::broker::reply::{self, DIRECT_REPLY_TO};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, PublishError, Result};

impl State {
    /// Begins to receive the replies to this client's requests.
    pub(super) fn consume_replies(
        &mut self,
        handle: &ConsumerHandle,
    ) -> rusqlite::Result<Result<ConsumerId>> {
        if let Some(present) = &self.replies {
            if !present.handle.is_stopped() {
                return Ok(Err(reply::taken()));
            }
            self.end_consumer(present.id)?;
        }
        let id = self.next();
        // A new address each time: what was asked through an earlier consumer is not for this one.
        let address = format!("{DIRECT_REPLY_TO}.{}.{id}", self.me);
        self.record_consumer(id, &address, None)?;
        self.replies = Some(ReplyConsumer { id, address, handle: handle.clone() });
        self.joined.push(id);
        Ok(Ok(id))
    }

    /// Forgets the reply consumer of this number.
    pub(super) fn end_replies(&mut self, id: ConsumerId) {
        self.replies.take_if(|consumer| consumer.id == id);
    }

    /// Other clients took us for dead, and our address is no longer known.
    pub(super) fn lose_replies(&mut self) {
        if let Some(consumer) = self.replies.take() {
            let words =
                "this program was silent for longer than its lease, and replies to it are lost: consume anew";
            consumer.handle.send(Err(Error::new(ErrorKind::Connection, words)));
        }
    }

    /// Writes into a request where its reply goes.
    ///
    /// # Errors
    /// If this client reads no replies.
    pub(super) fn address_request(&self, envelope: &mut Envelope) -> Result<(), PublishError> {
        let consumer = self.replies.as_ref().filter(|consumer| !consumer.handle.is_stopped());
        envelope.reply_to = Some(consumer.ok_or(PublishError::NoReader)?.address.clone());
        Ok(())
    }

    /// Hands a reply to its caller, and says whether that one is still there.
    pub(super) fn hand_reply(&mut self, address: &str, envelope: &Envelope) -> rusqlite::Result<bool> {
        if let Some(consumer) = self.replies.as_ref().filter(|consumer| consumer.address == address) {
            let is_there = !consumer.handle.is_stopped();
            if is_there {
                self.handed.push(envelope.clone());
            }
            return Ok(is_there);
        }
        let is_there = self
            .connection
            .prepare_cached("SELECT 1 FROM leveret_consumer WHERE queue = ?1")?
            .exists([address])?;
        if is_there {
            let id = self.next();
            let values = Values::new(envelope);
            let place: [&dyn ToSql; 2] = [&id, &address];
            let mut insert = self.connection.prepare_cached(&self.sql.insert_reply)?;
            bind(&mut insert, &place, &values.as_params())?;
            insert.raw_execute()?;
        }
        Ok(is_there)
    }

    /// True if other programs have left replies for us.
    pub(super) fn has_replies(&self) -> rusqlite::Result<bool> {
        let Some(consumer) = &self.replies else { return Ok(false) };
        self.connection
            .prepare_cached("SELECT 1 FROM leveret_reply WHERE address = ?1")?
            .exists([&consumer.address])
    }

    /// Picks up what other programs have left for us.
    pub(super) fn pick_up_replies(&mut self) -> rusqlite::Result<()> {
        let Some(consumer) = &self.replies else { return Ok(()) };
        let mut select = self.connection.prepare_cached(&self.sql.replies)?;
        let picked: Vec<Envelope> = select
            .query_map(params![consumer.address], |row| row::read(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        if !picked.is_empty() {
            self.connection
                .prepare_cached("DELETE FROM leveret_reply WHERE address = ?1")?
                .execute([&consumer.address])?;
        }
        drop(select);
        self.handed.extend(picked);
        Ok(())
    }

    /// After a commit: what was handed goes to who asked.
    pub(super) fn deliver_replies(&mut self) {
        for envelope in std::mem::take(&mut self.handed) {
            let Some(consumer) = &self.replies else { return };
            let mut delivery = reply::delivery(envelope);
            delivery.routing_key.clone_from(&consumer.address);
            // A reply whose caller has ended is dropped.
            let _ = consumer.handle.offer(delivery);
        }
    }
}
