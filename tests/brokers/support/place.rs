//! Where the brokers under test are, and which of them are missing.

use std::io::Write as _;
use std::sync::Once;

/// The variables that name RabbitMQ nodes.
const NODES: [&str; 3] = ["LEVERET_TEST_RABBITMQ3", "LEVERET_TEST_RABBITMQ4", "LEVERET_TEST_RABBITMQ43"];

/// Where a broker under test is.
pub(crate) enum Place {
    /// In this process: one of its own for each promise.
    InProcess,
    /// A database file of its own for each promise.
    #[cfg(feature = "sqlite")]
    File,
    /// A node shared by all promises, whose URL stands in this environment variable.
    Environment(&'static str),
}

impl Place {
    /// The broker's URL for one promise; `None`, with one line on stderr for the whole run, where there is none.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Self::InProcess => Some(format!("memory:{}", super::fixture::unique("contract"))),
            #[cfg(feature = "sqlite")]
            Self::File => {
                let file = super::fixture::unique("contract");
                Some(format!("sqlite:{}/{file}.db", env!("CARGO_TARGET_TMPDIR")))
            }
            Self::Environment(variable) => {
                let url = url_in(variable);
                if url.is_none() {
                    say_what_is_left_out();
                }
                url
            }
        }
    }
}

/// Where the management API of the node at `url` is, if it may be used and its folder is known.
pub(crate) fn management(url: &str) -> Option<String> {
    let node = NODES.into_iter().find(|variable| url_in(variable).as_deref() == Some(url))?;
    let folder = url_in(&format!("{node}_NODE")).filter(|_| cfg!(feature = "management"))?;
    let state = std::fs::read_to_string(format!("{folder}/state")).expect("the node's state");
    state.lines().find_map(|line| line.strip_prefix("management_url=")).map(str::to_owned)
}

/// Whether the broker at `url` is one of these nodes.
pub(crate) fn is_one_of(url: &str, nodes: &[&str]) -> bool {
    nodes.iter().any(|variable| url_in(variable).as_deref() == Some(url))
}

/// The variables of nodes that are not there.
pub(crate) fn missing() -> Vec<&'static str> {
    NODES.into_iter().filter(|variable| url_in(variable).is_none()).collect()
}

fn url_in(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}

fn say_what_is_left_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let missing = missing().join(", ");
        // Not `eprintln!`, which the test harness swallows when the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "brokers left out: {missing} not set. ./scripts/test starts the nodes and runs their tests."
        );
    });
}
