//! The nodes that tests run on: the shared ones of the environment, and one of each version that may be killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use tokio::sync::{Mutex, MutexGuard};

use super::wait::until;

/// Makes each `async fn name(node)` a test per node, `rabbitmq3::name`, `rabbitmq4::name` and `rabbitmq43::name`: on
/// `Node`, which all tests share, or on a `Private` one, which the test has for itself.
macro_rules! on_each {
    (@ $module:ident, $number:literal, $node:ident: $($name:ident),*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(node) = $crate::support::node::$node::of($number).await {
                    super::$name(node).await;
                }
            })*
        }
    };
    ($node:ident: $($name:ident),* $(,)?) => {
        on_each!(@ rabbitmq3, 3, $node: $($name),*);
        on_each!(@ rabbitmq4, 4, $node: $($name),*);
        on_each!(@ rabbitmq43, 43, $node: $($name),*);
    };
}

/// A RabbitMQ that other tests use at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// 3, 4 or 43, as `scripts/rabbitmq` calls it.
    pub(crate) number: u8,
    pub(crate) url: String,
}

impl Node {
    /// The node that the environment names. Without one the test passes without doing anything, and one line says
    /// so; in CI version 3 must be there.
    pub(crate) async fn of(number: u8) -> Option<Self> {
        super::log::listen();
        let variable = format!("LEVERET_TEST_RABBITMQ{number}");
        match std::env::var(&variable) {
            Ok(url) if !url.is_empty() => return Some(Self { number, url }),
            Err(_) if number == 3 && std::env::var("CI").as_deref() == Ok("true") => {
                panic!("{variable} is not set: in CI that broker is tested; ./scripts/test starts a node")
            }
            _ => {}
        }
        left_out(number, &format!("{variable} names no node; ./scripts/test starts one"));
        None
    }
}

fn left_out(number: u8, why: &str) {
    static SAID: [Once; 3] = [const { Once::new() }; 3];
    SAID[place(number)].call_once(|| {
        // Not `eprintln!`, which the test harness swallows when the test passes.
        let _ = writeln!(std::io::stderr(), "faults: RabbitMQ {number} is left out: {why}");
    });
}

/// Where a node's own things stand among those of all nodes.
fn place(number: u8) -> usize {
    match number {
        3 => 0,
        4 => 1,
        _ => 2,
    }
}

/// A node that this test has for itself, to be killed and set on fire. It runs when the test gets it.
pub(crate) struct Private(MutexGuard<'static, Option<Owned>>);

/// One for each version, from the first test that wants it until this process ends.
static PRIVATE: [Mutex<Option<Owned>>; 3] = [const { Mutex::const_new(None) }; 3];

pub(crate) struct Owned {
    node: Node,
    /// `LEVERET_RABBITMQ_DIR` of this node.
    directory: PathBuf,
    /// `scripts/rabbitmq run`, which ends and removes the node when its command ends: a `cat` that reads from us. So
    /// the node goes with this process, however that ends.
    _keeper: Child,
}

impl Private {
    /// The private node of a version whose shared node the environment names.
    pub(crate) async fn of(number: u8) -> Option<Self> {
        let shared = Node::of(number).await?;
        let mut owned = PRIVATE[place(shared.number)].lock().await;
        if owned.is_none() {
            *owned = tokio::task::spawn_blocking(move || Owned::start(number)).await.unwrap();
        }
        owned.is_some().then_some(())?;
        let node = Self(owned);
        // The test before this one may have failed with the node suspended or down.
        node.signal("CONT").await;
        node.start().await;
        Some(node)
    }

    /// As a power cut would. The clients' connections break at once.
    pub(crate) async fn kill(&self) {
        self.script(&["kill"], &[]).await;
    }

    /// Starts it again, where its clients look for it, and waits until it answers.
    pub(crate) async fn start(&self) {
        self.script(&["start"], &[]).await;
    }

    /// Sends its Erlang VM a signal: `STOP` suspends it as a whole, `CONT` lets it go on. One that is down gets none.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.recorded("pid");
        if !pid.is_empty() {
            let sent =
                tokio::process::Command::new("kill").args(["-s", signal, &pid]).output().await.unwrap();
            // One that was killed may still be written down.
            assert!(sent.status.success() || signal == "CONT", "{sent:?}");
        }
    }

    /// What the node's folder says of it; empty where it says nothing.
    pub(crate) fn recorded(&self, key: &str) -> String {
        let state = self.owned().directory.join(self.number.to_string()).join("state");
        let state = std::fs::read_to_string(state).unwrap();
        let value = state.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    }

    /// Runs rabbitmqctl.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        self.script(&["ctl"], arguments).await
    }

    /// Closes all connections, as an operator does.
    ///
    /// rabbitmqctl goes through a list of them, and fails at one that has ended by itself meanwhile; the others are closed when
    /// it is asked again.
    pub(crate) async fn close_all_connections(&self, reason: &str) {
        until("rabbitmqctl has closed all connections", async || {
            let said = self.try_script(&["ctl"], &["close_all_connections", reason]).await;
            match said {
                Ok(_) => true,
                Err(words) if words.contains("noproc") => false,
                Err(words) => panic!("close_all_connections: {words}"),
            }
        })
        .await;
    }

    /// Runs Erlang on the node.
    pub(crate) async fn eval(&self, code: &str) -> String {
        self.ctl(&["eval", code]).await
    }

    async fn script(&self, command: &[&str], arguments: &[&str]) -> String {
        let said = self.try_script(command, arguments).await;
        said.unwrap_or_else(|words| panic!("scripts/rabbitmq {command:?} {arguments:?}: {words}"))
    }

    /// Runs the script. Returns its output, or the words in which it failed.
    async fn try_script(&self, command: &[&str], arguments: &[&str]) -> Result<String, String> {
        let owned = self.owned();
        let output = tokio::process::Command::new(script())
            .args(command)
            .arg(self.number.to_string())
            .args(arguments)
            .env("LEVERET_RABBITMQ_DIR", &owned.directory)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn owned(&self) -> &Owned {
        self.0.as_ref().expect("is started before a test gets it")
    }
}

impl Deref for Private {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.owned().node
    }
}

impl Owned {
    /// `None`, with a line that says so, where that RabbitMQ is not installed.
    fn start(number: u8) -> Option<Self> {
        let report = format!("echo \"$LEVERET_URL\"; echo \"$LEVERET_TEST_RABBITMQ{number}_NODE\"; exec cat");
        let mut keeper = Command::new(script())
            .args(["run", &number.to_string(), "--", "sh", "-c", &report])
            .env("LEVERET_RABBITMQ_INSTALL", "no")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let (mut url, mut folder) = (String::new(), String::new());
        output.read_line(&mut url).unwrap();
        output.read_line(&mut folder).unwrap();
        if folder.is_empty() {
            let status = keeper.wait().unwrap();
            assert_eq!(status.code(), Some(3), "scripts/rabbitmq run {number}: see above");
            left_out(number, "a node to kill needs it installed here");
            return None;
        }
        let directory = PathBuf::from(folder.trim()).parent().unwrap().to_owned();
        let node = Node { number, url: url.trim().to_owned() };
        Some(Self { node, directory, _keeper: keeper })
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/rabbitmq")
}
