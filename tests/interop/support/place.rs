//! Where the brokers under test are.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A broker under test.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// In this process, one for each test.
    Memory,
    /// A file for each test.
    #[cfg(feature = "sqlite")]
    Sqlite,
    /// The node that `scripts/rabbitmq` calls by this number, shared by all tests.
    RabbitMq(u8),
}

impl Place {
    /// Its URL. Without a node the test is skipped with a line that says so; in CI version 3 must be there.
    pub(crate) fn url(self) -> Option<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = match self {
            Self::Memory => return Some(format!("memory:interop-{}", COUNT.fetch_add(1, Ordering::Relaxed))),
            #[cfg(feature = "sqlite")]
            Self::Sqlite => {
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                let (folder, process) = (env!("CARGO_TARGET_TMPDIR"), std::process::id());
                return Some(format!("sqlite:{folder}/interop-{process}-{count}.db"));
            }
            Self::RabbitMq(number) => number,
        };
        let variable = format!("LEVERET_TEST_RABBITMQ{number}");
        match std::env::var(&variable) {
            Ok(url) if !url.is_empty() => return Some(url),
            Err(_) if std::env::var("CI").as_deref() == Ok("true") => {
                panic!("{variable} is not set: in CI every broker is tested (empty leaves it out on purpose)")
            }
            _ => {}
        }
        eprintln!("skipped: {variable} names no node; `scripts/rabbitmq start {number}` starts one");
        None
    }

    /// Waits until no other test is at this broker.
    pub(crate) fn turn(self) -> Option<MutexGuard<'static, ()>> {
        static TURNS: [Mutex<()>; 3] = [const { Mutex::new(()) }; 3];
        match self {
            Self::Memory => None,
            #[cfg(feature = "sqlite")]
            Self::Sqlite => None,
            Self::RabbitMq(number) => {
                let turn = match number {
                    3 => &TURNS[0],
                    4 => &TURNS[1],
                    _ => &TURNS[2],
                };
                // A test that failed has cleaned up behind it.
                Some(turn.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Removes what only this test had.
    pub(crate) fn clean_up(self, url: &str) {
        if let Some(path) = url.strip_prefix("sqlite:") {
            for suffix in ["", "-wal", "-shm"] {
                // Not all are there.
                let _ = std::fs::remove_file(format!("{path}{suffix}"));
            }
        }
    }
}
