//! What Leveret says in the log while the tests run. All tests share it, so each looks for names of its own.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Begins to listen; `LEVERET_TEST_LOG=1` also prints.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info,lapin=off"))
            .with_ansi(false)
            .with_writer(Log)
            .init();
    });
}

/// The lines so far that contain all these words.
pub(crate) fn lines(words: &[&str]) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
}

struct Log;

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Log {
    /// Each event is written at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if std::env::var_os("LEVERET_TEST_LOG").is_some() {
            io::stderr().write_all(event)?;
        }
        let line = String::from_utf8_lossy(event).into_owned();
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
