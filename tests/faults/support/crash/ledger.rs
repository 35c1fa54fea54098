//! What processes that are killed have begun and ended: a file, which outlives them.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::watch;

use super::POISON;

/// Tells the worker's process where the file is.
const FILE: &str = "LEVERET_TEST_LEDGER";

/// How long a poison job waits for its neighbours to be in hand.
const NEIGHBOURS: Duration = Duration::from_millis(300);

/// The test's side: reads the file. It is gone with the value, unless the test has failed.
pub(crate) struct Ledger(pub(crate) PathBuf);

impl Ledger {
    pub(crate) fn new(what: &str) -> Self {
        let name: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let ledger = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.ledger")));
        ledger.remove();
        ledger
    }

    /// The worker's process, with what it needs to write here. Its log stands beside the file.
    pub(crate) fn record(
        &self,
        worker: impl Fn() -> Command + Send + 'static,
    ) -> impl Fn() -> Command + Send + 'static {
        let (file, log) = (self.0.clone(), self.log());
        move || {
            let log = OpenOptions::new().create(true).append(true).open(&log).unwrap();
            let mut command = worker();
            command.env(FILE, &file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command
        }
    }

    fn log(&self) -> PathBuf {
        self.0.with_extension("log")
    }

    /// Process, step and job of each line.
    pub(crate) fn lines(&self) -> Vec<(u32, String, u64)> {
        let lines = std::fs::read_to_string(&self.0).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (process, step, number) = (words.next()?, words.next()?, words.next()?);
            Some((process.parse().ok()?, step.to_owned(), number.parse().ok()?))
        };
        // The last may be half written.
        lines.split_inclusive('\n').filter_map(|text| line(text.strip_suffix('\n')?)).collect()
    }

    /// How many different jobs have ended.
    pub(crate) fn ended(&self) -> u64 {
        let lines = self.lines();
        let ended: HashSet<_> =
            lines.iter().filter(|(_, step, _)| step == "end").map(|line| line.2).collect();
        ended.len() as u64
    }

    pub(crate) fn most_runs_of_a_good_job(&self) -> u64 {
        let mut runs: HashMap<u64, u64> = HashMap::new();
        for (_, step, number) in self.lines() {
            if step == "begin" && number < POISON {
                *runs.entry(number).or_default() += 1;
            }
        }
        runs.into_values().max().unwrap_or(0)
    }

    /// The processes that have begun a poison job.
    pub(crate) fn crashed(&self) -> Vec<u32> {
        let lines = self.lines().into_iter();
        lines.filter(|(_, step, number)| step == "begin" && *number >= POISON).map(|line| line.0).collect()
    }

    fn remove(&self) {
        for file in [&self.0, &self.log()] {
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
        }
    }
}

/// The worker's side: runs the jobs, and writes what it begins and ends.
pub(crate) struct Desk {
    file: File,
    in_hand: watch::Sender<usize>,
    concurrency: usize,
}

impl Desk {
    /// For a process that [`Ledger::record`] has made. A worker elsewhere, which only declares, writes nowhere.
    pub(crate) fn open(concurrency: u16) -> Self {
        Self::at(std::env::var(FILE).unwrap_or_else(|_| "/dev/null".to_owned()), concurrency)
    }

    /// For a worker of the test's own process.
    pub(crate) fn at(file: impl AsRef<Path>, concurrency: u16) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(file).unwrap();
        Self { file, in_hand: watch::Sender::new(0), concurrency: concurrency.into() }
    }

    /// Runs a job: a poison one aborts the process as soon as the worker has as many jobs in hand as it may.
    pub(crate) async fn run(&self, number: u64) {
        self.write("begin", number);
        self.in_hand.send_modify(|count| *count += 1);
        if number >= POISON {
            let mut in_hand = self.in_hand.subscribe();
            let full = in_hand.wait_for(|count| *count >= self.concurrency);
            // Where it is alone it waits in vain.
            let _ = tokio::time::timeout(NEIGHBOURS, full).await;
            std::process::abort();
        }
        // The work, so that there is something in hand at a crash.
        tokio::time::sleep(Duration::from_millis(50 + number * 37 % 150)).await;
        self.in_hand.send_modify(|count| *count -= 1);
        self.write("end", number);
    }

    /// In one piece: the process may be gone in the next moment.
    pub(crate) fn write(&self, step: &str, number: u64) {
        let line = format!("{} {step} {number}\n", std::process::id());
        (&self.file).write_all(line.as_bytes()).unwrap();
    }
}
