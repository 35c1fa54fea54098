//! The settings with which every broker is opened.

use std::fmt;
use std::time::Duration;

use crate::clock::Clock;
use crate::topology::Namespace;

/// A URL with a login, which its `Debug` does not show.
#[derive(Clone)]
pub struct ManagementUrl(String);

impl ManagementUrl {
    /// Takes a URL as it is; it is read when a broker is opened that needs it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL, login and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManagementUrl(..)")
    }
}

/// The settings with which every broker is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The prefix of Leveret's own names.
    pub namespace: Namespace,
    /// How long a publish waits for a broker that is away, blocked, or silent, and a declaration for one that is
    /// away.
    pub publish_timeout: Duration,
    /// True if opening the broker waits until it is there, however long that takes.
    pub wait_for_broker: bool,
    /// The URL of RabbitMQ's management API, if it may be used.
    pub management: Option<ManagementUrl>,
    /// The connection's name in the broker's own lists.
    pub name: String,
    /// The clock. Only the memory broker takes one that a test moves. RabbitMQ measures delays by its own clock, and uses this
    /// one to turn `not_before` into a delay.
    pub clock: Clock,
}

impl Default for Settings {
    /// Namespace `leveret`, 30 s, not waiting to open, the program's name and process id, the system's clock.
    fn default() -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        Self {
            namespace: Namespace::default(),
            publish_timeout: Duration::from_secs(30),
            wait_for_broker: false,
            management: None,
            name: format!("{}:{}", program.unwrap_or("leveret"), std::process::id()),
            clock: Clock::system(),
        }
    }
}
