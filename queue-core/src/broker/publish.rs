//! A message on its way to a broker.

use super::reply;
use crate::envelope::Envelope;
use crate::topology::{Name, Route};

/// A message to publish.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Publish {
    /// Where to. The default exchange (empty) routes to the queue named by the key.
    pub route: Route,
    /// The message.
    pub envelope: Envelope,
    /// True if it is an error that no queue takes it.
    pub mandatory: bool,
    /// Not to be delivered before this moment. Only on the default exchange.
    pub not_before: Option<std::time::SystemTime>,
}

impl Publish {
    /// A mandatory message to a queue, by the default exchange.
    pub fn to_queue(queue: impl Into<Name>, envelope: Envelope) -> Self {
        let route = Route { exchange: Name::Borrowed(""), routing_key: queue.into() };
        Self { route, envelope, mandatory: true, not_before: None }
    }

    /// A message to an exchange, which may have no subscribers. By the default exchange (empty) it goes to a queue and is
    /// mandatory, unless it is a direct reply, whose caller may have ended.
    pub fn to_exchange(exchange: impl Into<Name>, routing_key: impl Into<Name>, envelope: Envelope) -> Self {
        let route = Route { exchange: exchange.into(), routing_key: routing_key.into() };
        let mandatory = route.exchange.is_empty() && !reply::is_address(&route.routing_key);
        Self { route, envelope, mandatory, not_before: None }
    }
}
