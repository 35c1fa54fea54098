//! Keeps a process running, as systemd does: whenever it ends, it is started again.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The signal by which `abort` ends a process.
const SIGABRT: i32 = 6;

pub(crate) struct Supervisor {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Default, Clone, Copy)]
struct State {
    crashes: u32,
    has_given_up: bool,
    ended_otherwise: Option<ExitStatus>,
}

impl Supervisor {
    /// Gives up after so many crashes, or when a process ends in another way.
    pub(crate) fn start(command: impl Fn() -> Command + Send + 'static, limit: u32) -> Self {
        let (sender, state) = watch::channel(State::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(supervise(command, limit, sender, stop.clone()));
        Self { state, stop, task }
    }

    /// How often it was aborted so far.
    pub(crate) fn crashes(&self) -> u32 {
        self.state.borrow().crashes
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.state.borrow().has_given_up
    }

    /// A process that neither aborted nor was told to stop.
    pub(crate) fn ended_otherwise(&self) -> Option<ExitStatus> {
        self.state.borrow().ended_otherwise
    }

    /// Ends the process in the orderly way, and says how often it was aborted.
    pub(crate) async fn stop(self) -> u32 {
        self.stop.cancel();
        self.task.await.expect("no panic");
        self.state.borrow().crashes
    }
}

async fn supervise(
    command: impl Fn() -> Command,
    limit: u32,
    state: watch::Sender<State>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() && !state.borrow().has_given_up {
        let mut child = command().kill_on_drop(true).spawn().unwrap();
        let ended = tokio::select! {
            ended = child.wait() => ended.unwrap(),
            () = stop.cancelled() => {
                terminate(&child).await;
                let ended = child.wait().await.unwrap();
                if ended.success() { return }
                ended
            }
        };
        state.send_modify(|state| {
            if ended.signal() == Some(SIGABRT) {
                state.crashes += 1;
            } else {
                state.ended_otherwise = Some(ended);
            }
            state.has_given_up = state.crashes >= limit || state.ended_otherwise.is_some();
        });
    }
}

async fn terminate(child: &Child) {
    if let Some(id) = child.id() {
        // It may have ended meanwhile.
        let _ = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await.unwrap();
    }
}
