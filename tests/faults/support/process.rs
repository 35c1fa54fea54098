//! A worker in a process of its own, to be killed: this test program, started once more.

use std::process::Stdio;

use leveret::{Client, Worker};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::wait::soon;

/// Tells the process where its broker is. Not set: the test program runs as such.
const URL: &str = "LEVERET_TEST_PROCESS_URL";

/// The URL of the broker, in a process that [`Process::start`] has started.
pub(crate) fn url() -> Option<String> {
    std::env::var(URL).ok()
}

/// Runs a worker until it ends, and ends the process as a program's `main` would that says no more than
/// `worker.run().await`: the client is not closed, and whatever has not left the process is gone.
pub(crate) fn work(url: &str, with: impl FnOnce(&Client) -> Worker) -> ! {
    // Its log goes to its output, where the parent reads of its progress.
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stdout).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = super::client(url).await;
        match with(&client).run().await {
            Ok(()) => std::process::exit(0),
            Err(error) => {
                println!("{error}");
                std::process::exit(1);
            }
        }
    })
}

/// Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the ignored test `name`, which finds the URL by [`url`].
    pub(crate) fn start(name: &str, url: &str) -> Self {
        let mut child = Self::command(name, url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The command that does so.
    pub(crate) fn command(name: &str, url: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--ignored", "--nocapture"]).env(URL, url);
        command
    }

    /// Waits for a line with these words, and returns it.
    #[track_caller]
    pub(crate) fn says(&mut self, words: &str) -> impl Future<Output = String> {
        let output = &mut self.output;
        soon(words, async move {
            let mut line = String::new();
            while !line.contains(words) {
                line.clear();
                assert_ne!(output.read_line(&mut line).await.unwrap(), 0, "ended without saying `{words}`");
            }
            line
        })
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Its exit code, `None` if a signal ended it, and what else it said.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        soon("the end of its output", self.output.read_to_string(&mut rest)).await.unwrap();
        (soon("its end", self.child.wait()).await.unwrap().code(), rest)
    }
}
