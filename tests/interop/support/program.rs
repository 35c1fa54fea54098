//! The examples as processes: what a person starts, sees and stops.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// What the examples read. A test sets what it wants and has none of the developer's.
const VARIABLES: [&str; 10] = [
    "LEVERET_URL",
    "LEVERET_URI",
    "LEVERET_MANAGEMENT_URL",
    "RABBITMQ_URL",
    "LEVERET_CONCURRENCY",
    "LEVERET_QUEUES",
    "MAIL_FROM",
    "WEB_ADDRESS",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// An example that runs. Killed when it is dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    /// What of it has been read.
    log: Vec<String>,
}

/// What an example that has ended leaves behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    /// What was not yet read.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts an example, by words as in a shell, on the broker at `url`.
    pub(crate) fn start(words: &str, url: &str) -> Self {
        Self::start_with(words, &[("LEVERET_URL", url)])
    }

    /// Starts an example with these variables.
    pub(crate) fn start_with(words: &str, environment: &[(&str, &str)]) -> Self {
        let mut words = words.split_whitespace();
        let name = words.next().expect("an example's name").to_owned();
        let mut command = Command::new(binary(&name));
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.envs(environment.iter().copied());
        let mut child = command.spawn().expect("an executable");
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { name, child, stdout, stderr, log: Vec::new() }
    }

    /// Runs an example to its end.
    pub(crate) async fn run(words: &str, url: &str) -> Ended {
        Self::start(words, url).end().await
    }

    /// The lines that it prints up to the first that contains `words`.
    pub(crate) async fn wait_for(&mut self, words: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if !read_until(&mut self.stdout, words, &mut lines).await {
            let log = rest(&mut self.stderr).await;
            panic!("`{}` ended without saying `{words}`: {lines:#?}\n{log}", self.name);
        }
        lines
    }

    /// Waits for a line of its log that contains `words`.
    pub(crate) async fn wait_for_log(&mut self, words: &str) {
        if !read_until(&mut self.stderr, words, &mut self.log).await {
            panic!("`{}` ended without logging `{words}`: {:#?}", self.name, self.log);
        }
    }

    /// Waits until it takes SIGTERM itself. Polls, since a worker without a log says nothing of it.
    pub(crate) async fn wait_until_it_takes_signals(&self) {
        const SIGTERM: u64 = 15;
        let id = self.child.id().expect("it runs");
        loop {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
            let caught =
                status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask of signals");
            let caught = u64::from_str_radix(caught.trim(), 16).expect("hexadecimal");
            if caught >> (SIGTERM - 1) & 1 == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends SIGTERM.
    pub(crate) async fn signal(&self) {
        self.wait_until_it_takes_signals().await;
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &id]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(self) -> Ended {
        self.signal().await;
        self.end().await
    }

    /// Waits for it to end by itself.
    pub(crate) async fn end(mut self) -> Ended {
        let (stdout, stderr) = tokio::join!(rest(&mut self.stdout), rest(&mut self.stderr));
        let code = self.child.wait().await.unwrap().code();
        let log = self.log.iter().map(|line| format!("{line}\n")).collect::<String>();
        Ended { code, stdout, stderr: log + &stderr }
    }
}

impl Ended {
    /// Whether all went well and nothing was complained of.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
    }
}

/// `cargo test` builds the examples before it runs any test; `cargo test --test interop` alone does not.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let target = test.ancestors().nth(2).expect("target/debug/deps/interop-…");
    let binary = target.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        binary.exists(),
        "{} is missing: build it with `cargo build --examples`, and with the features of this test run",
        binary.display()
    );
    binary
}

/// Whether there was a line with these words. All lines up to it are added to `seen`.
async fn read_until(
    lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>,
    words: &str,
    seen: &mut Vec<String>,
) -> bool {
    while let Some(line) = lines.next_line().await.expect("UTF-8") {
        let is_it = line.contains(words);
        seen.push(line);
        if is_it {
            return true;
        }
    }
    false
}

async fn rest(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>) -> String {
    let mut text = String::new();
    while let Some(line) = lines.next_line().await.expect("UTF-8") {
        text.push_str(&line);
        text.push('\n');
    }
    text
}
