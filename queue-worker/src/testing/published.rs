//! Assertions about events that the test's client has published, even if no queue took them.

use queue_core::event::Event;
use queue_core::format::Format;

use super::unserved::Published;
use super::{TestQueue, shown_in_short};

impl TestQueue {
    /// The events of a type that were published so far, by the code under test or by a handler, in their order, including
    /// events that no queue took.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use leveret::{Event, testing::TestQueue};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
    /// # struct OrderPlaced { order: u64, region: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// queue.client().publish(OrderPlaced { order: 7, region: "europe".into() }).await?;
    /// assert_eq!(queue.all_published::<OrderPlaced>()[0].order, 7);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If one cannot be decoded.
    #[track_caller]
    pub fn all_published<E: Event>(&self) -> Vec<E> {
        self.events::<E>().iter().map(decode).collect()
    }

    /// Asserts that an event was published for which `is_meant` returns true. Its subscribers may or may not have run.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use leveret::{Event, testing::TestQueue};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
    /// # struct OrderPlaced { order: u64, region: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// queue.client().publish(OrderPlaced { order: 7, region: "europe".into() }).await?;
    /// queue.assert_published(|event: &OrderPlaced| event.region == "europe");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If there is none. The message shows what was published.
    #[track_caller]
    pub fn assert_published<E: Event>(&self, is_meant: impl Fn(&E) -> bool) {
        if !self.all_published::<E>().iter().any(is_meant) {
            let (name, all) = (E::NAME, self.watched.published());
            assert!(!all.is_empty(), "no event `{name}` was published, nor any other");
            panic!("no such event `{name}` was published, but:{}", show(&all));
        }
    }

    /// Asserts that no event was published for which `is_meant` returns true.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use leveret::{Event, testing::TestQueue};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
    /// # struct OrderPlaced { order: u64, region: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// queue.client().publish(OrderPlaced { order: 7, region: "europe".into() }).await?;
    /// queue.refute_published(|event: &OrderPlaced| event.region == "asia");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If there was one. The message shows it.
    #[track_caller]
    pub fn refute_published<E: Event>(&self, is_meant: impl Fn(&E) -> bool) {
        let mut meant = self.events::<E>();
        meant.retain(|published| is_meant(&decode(published)));
        let name = E::NAME;
        assert!(meant.is_empty(), "an event `{name}` was published that should not be:{}", show(&meant));
    }

    fn events<E: Event>(&self) -> Vec<Published> {
        let mut all = self.watched.published();
        all.retain(|published| {
            published.exchange == E::EXCHANGE && published.envelope.task.as_deref() == Some(E::NAME)
        });
        all
    }
}

#[track_caller]
fn decode<E: Event>(published: &Published) -> E {
    let name = E::NAME;
    let format = Format::of(published.envelope.content_type.as_deref())
        .unwrap_or_else(|unknown| panic!("an event `{name}` was published: {unknown}"));
    E::decode_body(format, &published.envelope.payload)
        .unwrap_or_else(|error| panic!("what was published as event `{name}` does not fit it: {error}"))
}

/// One line an event.
fn show(events: &[Published]) -> String {
    let line = |Published { exchange, routing_key, envelope }: &Published| {
        let name = envelope.task.as_deref().unwrap_or("(no name)");
        let key = if routing_key.is_empty() { String::new() } else { format!(" with key `{routing_key}`") };
        format!("\n  {name} {} to exchange `{exchange}`{key}", shown_in_short(envelope))
    };
    events.iter().map(line).collect()
}
