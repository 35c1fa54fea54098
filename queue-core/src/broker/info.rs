//! The name of a broker, and its state.

/// The name and state of a broker. Returned by [`Client::info`](crate::client::Client::info).
///
/// ```
/// use leveret::{BrokerInfo, Health};
///
/// fn readiness(broker: &BrokerInfo) -> Result<(), String> {
///     match &broker.health {
///         Health::Up => Ok(()),
///         Health::Blocked(reason) | Health::Down(reason) => Err(format!("{}: {reason}", broker.system)),
///         _ => Err(format!("{} is not ready", broker.system)),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// `memory`, `sqlite` or `rabbitmq` (OpenTelemetry's `messaging.system`).
    pub system: &'static str,
    /// The server's version, where there is a server and it has been reached.
    pub version: Option<String>,
    /// Its state.
    pub health: Health,
}

impl BrokerInfo {
    /// A healthy broker of no stated version.
    pub fn new(system: &'static str) -> Self {
        Self { system, version: None, health: Health::Up }
    }
}

/// The state of a broker, for a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It is connected.
    Up,
    /// It is connected, but takes no messages, for this reason of its own (memory or disk alarm).
    Blocked(String),
    /// It is away, with the error of the last attempt to reach it.
    Down(String),
}
