//! A Python program as a process: lines of JSON in and out.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::PATIENCE;

/// A running program. Killed when it is dropped.
pub(super) struct Program {
    program: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// What it writes to stderr, once it has ended.
    complaint: JoinHandle<String>,
}

impl Program {
    pub(super) fn start(interpreter: &str, program: &str, url: &str, arguments: &[&str]) -> Self {
        let path = format!("{}/interop/python/programs/{program}", env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(interpreter)
            // Without, a program that imports nothing of ours would still leave `__pycache__` in the checkout.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(path)
            .arg(url)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{interpreter} {program}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut stderr = child.stderr.take().expect("it is piped");
        let complaint = tokio::spawn(async move {
            let mut words = Vec::new();
            let _ = stderr.read_to_end(&mut words).await;
            String::from_utf8_lossy(&words).into_owned()
        });
        Self { program: program.to_owned(), child, input, output, complaint }
    }

    /// Gives it lines on its stdin.
    pub(super) async fn feed(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            let input = self.input.as_mut().expect("fed before its end");
            if let Err(error) = input.write_all(format!("{line}\n").as_bytes()).await {
                self.fail(&format!("reads no more: {error}")).await;
            }
        }
    }

    /// The next line that it writes.
    pub(super) async fn next(&mut self) -> Value {
        match tokio::time::timeout(PATIENCE, self.output.next_line()).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{} wrote no JSON: {error}: {line}", self.program)),
            Ok(Ok(None)) => self.fail("ended without writing another line").await,
            Ok(Err(error)) => self.fail(&format!("cannot be read: {error}")).await,
            Err(_) => self.fail(&format!("wrote nothing for {PATIENCE:?}")).await,
        }
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&mut self) {
        assert_eq!(self.next().await, "ready", "{}", self.program);
    }

    /// Closes its stdin, and waits for its good end.
    pub(super) async fn end(mut self) {
        self.input = None;
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => self.fail(&format!("ended with {status}")).await,
            Ok(Err(error)) => self.fail(&format!("cannot be waited for: {error}")).await,
            Err(_) => self.fail(&format!("does not end within {PATIENCE:?}")).await,
        }
    }

    async fn fail(&mut self, why: &str) -> ! {
        let _ = self.child.kill().await;
        let complaint = (&mut self.complaint).await.unwrap_or_default();
        panic!("{} {why}\n{complaint}", self.program);
    }
}
