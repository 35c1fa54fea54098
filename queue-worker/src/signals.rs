//! Listens to SIGTERM and SIGINT for a worker, and ends a process that cannot end by itself.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::blocking::Blocking;

/// How long a program whose worker was stopped at once has to end by itself, before the process is ended under functions
/// that cannot be stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a worker that was stopped at once has to return, before its process is ended although it has not: jobs block
/// every thread of its runtime. More than all steps of such a stop take together.
const STUCK: Duration = Duration::from_secs(6);

/// A received signal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    name: &'static str,
    number: i32,
}

impl Received {
    #[cfg(unix)]
    const SIGTERM: Self = Self { name: "SIGTERM", number: 15 };
    const SIGINT: Self = Self { name: if cfg!(unix) { "SIGINT" } else { "Ctrl-C" }, number: 2 };

    /// The exit code that a shell reports for a process that the signal ended.
    fn exit_code(self) -> i32 {
        128 + self.number
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// SIGTERM and SIGINT; on Windows, Ctrl-C.
pub(crate) struct Signals {
    /// The number of received signals.
    count: u32,
    /// The last received signal, if it was not the first.
    second: Option<Received>,
    listening: Option<Listening>,
    /// Ends the watch over the worker, which has returned or will not run.
    _returned: Option<DropGuard>,
}

/// Receives the signals from its creation on.
struct Listening {
    #[cfg(unix)]
    both: [tokio::signal::unix::Signal; 2],
}

impl Listening {
    /// Begins to listen, on the runtime that it is called in.
    fn begin() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { both: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?] })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> Received {
        #[cfg(unix)]
        {
            let [terminate, interrupt] = &mut self.both;
            tokio::select! {
                Some(()) = terminate.recv() => return Received::SIGTERM,
                Some(()) = interrupt.recv() => return Received::SIGINT,
                else => {}
            }
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_ok() {
            return Received::SIGINT;
        }
        std::future::pending().await
    }
}

impl Signals {
    /// Begins to listen. tokio keeps a signal for the rest of the process once it has been listened to.
    pub(crate) fn listen() -> io::Result<Self> {
        let returned = CancellationToken::new();
        let guard = returned.clone().drop_guard();
        watch(returned)?;
        Ok(Self { count: 0, second: None, listening: Some(Listening::begin()?), _returned: Some(guard) })
    }

    /// Leaves all signals to the program.
    pub(crate) fn none() -> Self {
        Self { count: 0, second: None, listening: None, _returned: None }
    }

    /// True if signals are received here.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// True if the last signal was not the first.
    pub(crate) fn is_second(&self) -> bool {
        self.second.is_some()
    }

    /// The next signal. Never returns for [`none`](Self::none). Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        let Some(listening) = &mut self.listening else { std::future::pending().await };
        let signal = listening.next().await;
        self.count += 1;
        self.second = (self.count > 1).then_some(signal);
        signal
    }

    /// Makes a second signal end the process although a function without `async`, or a job that blocks its thread, still runs and
    /// cannot be stopped. If a second signal has arrived already, it ends the process in a moment, otherwise the next one does.
    /// tokio has replaced the signals' default effect, and its runtime waits for such functions. Returns at once; does nothing
    /// where signals are left to the program. Only for a worker that has stopped.
    pub(crate) fn end_process_under(mut self, blocking: &Arc<Blocking>, jobs: &TaskTracker) {
        if !self.is_listening() || (blocking.is_none() && jobs.is_empty()) {
            return;
        }
        let (blocking, jobs) = (Arc::clone(blocking), jobs.clone());
        // On a thread of its own, since the program's runtime may be shutting down. It is not joined: it ends with the
        // last function or with the process.
        let watching = std::thread::Builder::new().name("leveret-signals".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ending = runtime.block_on(async {
                let told = async {
                    let signal = match self.second {
                        Some(signal) => signal,
                        None => self.next().await,
                    };
                    // The rest of the program may be ending in its own way.
                    tokio::time::sleep(LAST_WORDS).await;
                    signal
                };
                let none = async { tokio::join!(blocking.none(), jobs.wait()) };
                tokio::select! {
                    biased;
                    _ = none => None,
                    signal = told => Some(signal),
                }
            });
            if let Some(signal) = ending {
                let (functions, jobs, code) = (blocking.list(), jobs.len(), signal.exit_code());
                tracing::warn!(
                    target: "leveret", %signal, %functions, jobs, code,
                    "the process ends under functions without `async`, or jobs that block their thread, which cannot be \
                     stopped; they run again"
                );
                std::process::exit(code);
            }
            io::Result::Ok(())
        });
        if let Err(error) = watching {
            tracing::warn!(target: "leveret", %error, "process no longer listens to signals, though jobs still run; kill it if it does not end");
        }
    }
}

/// Ends the process when a second signal has arrived and the worker does not return: if jobs block all threads of a runtime, it
/// receives no signal. So this has a thread and a runtime of its own, which end with `returned`.
fn watch(returned: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listening = {
        let _within = runtime.enter();
        Listening::begin()?
    };
    let watching = move || {
        let stuck = async {
            listening.next().await;
            let signal = listening.next().await;
            tokio::time::sleep(STUCK).await;
            signal
        };
        let stuck = runtime.block_on(async {
            tokio::select! {
                biased;
                () = returned.cancelled() => None,
                signal = stuck => Some(signal),
            }
        });
        if let Some(signal) = stuck {
            let code = signal.exit_code();
            tracing::error!(
                target: "leveret", %signal, code,
                "the process ends under jobs that block all threads of its runtime, so that the worker cannot stop; they \
                 run again. Write a task that blocks as a function without `async`"
            );
            std::process::exit(code);
        }
    };
    std::thread::Builder::new().name("leveret-watch".to_owned()).spawn(watching).map(drop)
}
