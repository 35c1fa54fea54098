//! What a broker is, and whether it can be talked to.

/// What a broker is, and how it is at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// `memory`, `sqlite` or `rabbitmq` (OpenTelemetry's `messaging.system`).
    pub system: &'static str,
    /// The server's version, where there is a server and it has been reached.
    pub version: Option<String>,
    /// Whether it can be talked to.
    pub health: Health,
}

impl BrokerInfo {
    /// A healthy broker of no stated version.
    pub fn new(system: &'static str) -> Self {
        Self { system, version: None, health: Health::Up }
    }
}

/// Whether a broker can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It can.
    Up,
    /// It is there, but takes no messages, for the reason it gave (memory or disk alarm).
    Blocked(String),
    /// It is away; what the last attempt to reach it said.
    Down(String),
}
