//! A database file of its own for each test, and programs that share it: this very binary, run as a child.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use leveret::Client;
use queue_core::broker::{Consumer, Delivery};

#[path = "../faults/support/crash/mod.rs"]
pub(crate) mod crash;
#[path = "../faults/support/log.rs"]
pub(crate) mod log;

/// How long an event may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The variable that makes a child of this binary: what it is to do, and on which URL.
const ROLE: &str = "LEVERET_TEST_ROLE";
const URL: &str = "LEVERET_TEST_URL";

/// What makes this binary run [`child`], and nothing else.
const CHILD: [&str; 4] = ["--exact", "support::child", "--nocapture", "--quiet"];

/// The command that runs `role` of this binary, for a supervisor.
pub(crate) fn command(role: &str, url: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(this_binary());
    command.args(CHILD).env(ROLE, role).env(URL, url);
    command
}

/// A file that no other test uses, gone with the value.
pub(crate) struct Database(pub(crate) PathBuf);

impl Database {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("sqlite-{}-{}.db", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let database = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        database.remove();
        database
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("sqlite:{}{options}", self.0.display())
    }

    pub(crate) async fn client(&self, options: &str) -> Client {
        let client = Client::connect(&self.url(options)).await;
        client.unwrap_or_else(|error| panic!("{}", leveret::error_chain(&error)))
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-relay"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
        for file in self.lock_files() {
            let _ = std::fs::remove_file(file);
        }
    }

    /// Those of programs that live, and of killed ones that nobody has found.
    pub(crate) fn lock_files(&self) -> Vec<PathBuf> {
        let prefix = format!("{}-client-", self.0.display());
        let folder = std::fs::read_dir(self.0.parent().expect("a folder")).expect("it can be read");
        let files = folder.filter_map(|file| Some(file.ok()?.path()));
        files.filter(|file| file.display().to_string().starts_with(&prefix)).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The next delivery.
#[track_caller]
pub(crate) fn next(consumer: &mut Consumer) -> impl Future<Output = Delivery> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, consumer.next()).await {
            Ok(Some(Ok(delivery))) => delivery,
            other => panic!("{caller}: {other:?}"),
        }
    }
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

/// Another program on the same file. Killed with the value.
pub(crate) struct Program {
    pub(crate) process: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Program {
    /// Runs `role` of this binary.
    pub(crate) fn start(role: &str, url: &str) -> Self {
        Self::start_by(Command::new(this_binary()), role, url).expect("this binary runs")
    }

    /// Runs `role` by a command of which this binary is, or becomes, the program.
    pub(crate) fn start_by(mut command: Command, role: &str, url: &str) -> std::io::Result<Self> {
        let mut process = command
            .args(CHILD)
            .env(ROLE, role)
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().expect("piped");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The harness writes too; ours have a mark.
                if let Some(line) = line.split_once('>').map(|(_, line)| line.to_owned()) {
                    let _ = sender.send(line);
                }
            }
        });
        Ok(Self { process, stdin, lines })
    }

    /// The next line that the program says.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// All lines, until the program has ended.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Lets the program go on from where it waits for us.
    pub(crate) fn go_on(&mut self) {
        self.stdin.write_all(b"go on\n").expect("it listens");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill");
        assert!(status.success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn this_binary() -> PathBuf {
    std::env::current_exe().expect("this binary")
}

/// What a child says, in one piece: it may be killed at any moment.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(format!(">{line}\n").as_bytes()).and_then(|()| stdout.flush());
}

/// Waits for the parent's word.
pub(crate) fn wait_for_word() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Not a test of its own: what the programs of other tests run.
#[test]
fn child() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = match Client::connect(&url).await {
            Ok(client) => client,
            Err(error) => return say(&format!("{:?}: {}", error.kind(), leveret::error_chain(&error))),
        };
        match role.as_str() {
            "fill" => crate::disk::fill(client).await,
            "echo" => crate::neighbour::echo(client).await,
            "flood" => crate::neighbour::flood(client).await,
            "hold" => crate::fence::hold(client).await,
            "begin" => crate::fence::begin(client).await,
            "serve" => crate::registry::serve(client).await,
            "named" => crate::lock::named(client).await,
            "leave" => crate::fence::leave(client).await,
            "publish" => crate::kill::publish(client).await,
            "work" => crate::kill::work(client).await,
            "work ten" => crate::crash_loop::work_ten(client).await,
            "work one" => crate::crash_loop::work_one(client).await,
            other => panic!("no role `{other}`"),
        }
    });
}
