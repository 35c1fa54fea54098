//! Walks through a queue for an operator, who sees what is ready there without taking it.

use async_trait::async_trait;

use super::MemoryBroker;
use crate::broker::{ConsumeOptions, Delivery, Found, Mark, Place, Walk};
use crate::error::Result;

#[derive(Debug)]
pub(super) struct MemoryWalk<'a> {
    broker: &'a MemoryBroker,
    queue: String,
    /// Level and position of the message that it came by last.
    last: Option<(u8, u64)>,
}

impl<'a> MemoryWalk<'a> {
    pub(super) fn new(broker: &'a MemoryBroker, queue: &str) -> Self {
        Self { broker, queue: queue.to_owned(), last: None }
    }
}

#[async_trait]
impl Walk for MemoryWalk<'_> {
    async fn next(&mut self, count: u16) -> Result<Vec<Found>> {
        let Self { broker, queue, last } = self;
        broker.look(|state| {
            let Some(ready) = state.ready(broker.client, queue)? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            let mut reached = *last;
            for entry in ready.after(*last).take(count.into()) {
                reached = Some((entry.level, entry.position));
                found.push(Found::new(Place(entry.position), entry.message.envelope.clone()));
            }
            *last = reached;
            Ok(found)
        })?
    }

    fn mark(&self) -> Option<Mark> {
        self.last.map(|(level, place)| Mark { level: level.into(), place })
    }

    async fn go_to(&mut self, mark: Mark) -> Result<()> {
        self.last = Some((u8::try_from(mark.level).unwrap_or(u8::MAX), mark.place));
        Ok(())
    }

    async fn take(&mut self, found: Found) -> Result<Option<Delivery>> {
        let Place(position) = found.place;
        let options = ConsumeOptions::new(self.queue.clone());
        let client = self.broker.client;
        self.broker.act(|state| state.take_by(client, &options, |ready| ready.take_at(position)))?
    }

    async fn end(self: Box<Self>) {}
}
