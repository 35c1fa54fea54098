//! Crash loops: jobs that abort the process that runs them, and what becomes of the others. The tests of all brokers
//! share this: the worker's process notes in a [`ledger`] what it runs, a [`supervisor`] starts it again and again, and a
//! [`Row`] is one line of the table that comes out.

pub(crate) mod ledger;
pub(crate) mod supervisor;

use std::fmt;
use std::io::Write as _;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use leveret::{Client, DeadLetter, ErrorKind};
use queue_core::topology::{Name, QueueSpec};
use tokio::process::Command;

pub(crate) use ledger::{Desk, Ledger};
pub(crate) use supervisor::Supervisor;

/// From this number on a job is a poison job: it aborts its process.
pub(crate) const POISON: u64 = 1_000;

/// After so many crashes of its worker the supervisor gives up. A row that passes has far fewer.
const TOO_MANY_CRASHES: u32 = 30;

/// How long a row may take on a busy machine: it only bounds how long a failure takes.
const PATIENCE: Duration = Duration::from_secs(360);

/// One line of the table: the jobs of a queue, the poison ones among them, whose worker is started again whenever it
/// ends.
pub(crate) struct Row {
    /// How many good jobs stand before the poison ones.
    pub(crate) before: u64,
    pub(crate) poisons: u64,
    /// How many good jobs there are.
    pub(crate) good: u64,
    pub(crate) concurrency: u16,
    /// How many crashes there may be until all good jobs are done.
    pub(crate) bound: u32,
    /// Whether a poison job must become a dead letter. A call need not: its caller is told.
    pub(crate) dies: bool,
}

impl Row {
    /// The numbers of the jobs in the order in which they are enqueued.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.before).chain(POISON..POISON + self.poisons).chain(self.before..self.good)
    }

    /// Works until all good jobs are done, all poison ones are dead and `told` has come, or there is no hope of that.
    /// Prints the line, and says what is not as it should be.
    pub(crate) async fn run(
        &self,
        what: &str,
        queue: &str,
        client: &Client,
        worker: impl Fn() -> Command + Send + 'static,
        told: impl Future<Output = ()>,
    ) -> Vec<String> {
        let ledger = Ledger::new(what);
        let supervisor = Supervisor::start(ledger.record(worker), TOO_MANY_CRASHES);
        let deadline = Instant::now() + PATIENCE;
        let (mut until_done, mut told, mut is_told) = (None, pin!(told), false);
        loop {
            let (is_over, crashes) = (supervisor.has_given_up(), supervisor.crashes());
            if until_done.is_none() && ledger.ended() == self.good {
                until_done = Some(crashes);
            }
            let dead = depth(client, &dead(queue)).await.ready;
            let is_done = until_done.is_some() && is_told && (dead >= self.poisons || !self.dies);
            if is_done || is_over || Instant::now() > deadline {
                break;
            }
            // Nothing signals what another process writes.
            tokio::select! {
                () = told.as_mut(), if !is_told => is_told = true,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        let ended_otherwise = supervisor.ended_otherwise();
        let crashes = supervisor.stop().await;
        let letters = match depth(client, &dead(queue)).await.ready {
            0 => Vec::new(),
            _ => client.admin().dead_letters(&dead(queue), 100).await.unwrap(),
        };
        let outcome = Outcome {
            done: ledger.ended(),
            runs: ledger.most_runs_of_a_good_job(),
            until_done,
            crashes,
            letters,
            left: left(client, queue).await + left(client, &suspect(queue)).await,
            ended_otherwise,
            crashed: ledger.crashed(),
        };
        let what = format!(
            "{what}, {} poison and {} good at concurrency {}",
            self.poisons, self.good, self.concurrency
        );
        // Not `println!`, which the test harness swallows when the test passes.
        let _ = writeln!(std::io::stderr(), "{what}: {outcome}");
        outcome.faults(self).into_iter().map(|fault| format!("{what}: {fault}")).collect()
    }
}

/// Where jobs wait that were set apart.
fn suspect(queue: &str) -> Name {
    format!("{queue}.suspect").into()
}

fn dead(queue: &str) -> Name {
    QueueSpec::new(queue.to_owned()).dead_queue().expect("a dead-letter queue")
}

/// What is left in a queue when its consumers have gone.
async fn left(client: &Client, queue: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let depth = depth(client, queue).await;
        if depth.consumers == 0 {
            return depth.ready + depth.unsettled.unwrap_or(0) + depth.delayed.unwrap_or(0);
        }
        assert!(Instant::now() < deadline, "`{queue}` keeps its consumers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A queue that is not there has nothing in it.
async fn depth(client: &Client, queue: &str) -> queue_core::broker::QueueStats {
    match client.operator().unwrap().inspect(queue).await {
        Ok(depth) => depth,
        Err(error) if error.kind() == ErrorKind::NotFound => queue_core::broker::QueueStats::default(),
        Err(error) => panic!("{queue}: {}", leveret::error_chain(&error)),
    }
}

/// What came out.
struct Outcome {
    /// How many good ones have ended.
    done: u64,
    /// How often that good job was begun which was begun most often.
    runs: u64,
    /// The crashes until all good ones were done; `None` if some never were.
    until_done: Option<u32>,
    crashes: u32,
    letters: Vec<DeadLetter>,
    /// Messages in the queue and in the one of the jobs that were set apart.
    left: u64,
    /// A worker that neither crashed nor was told to stop.
    ended_otherwise: Option<ExitStatus>,
    /// The processes that began a poison job.
    crashed: Vec<u32>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, runs, crashes, left, .. } = self;
        match self.until_done {
            Some(crashes) => write!(f, "all good ones done after {crashes} crashes"),
            None => write!(f, "{done} good ones done"),
        }?;
        let innocents = self.innocents().count();
        let poisons = self.letters.len() - innocents;
        write!(f, " (one ran {runs} times), {crashes} crashes in all, {innocents} innocents dead, ")?;
        write!(f, "{poisons} poisons dead, {left} left")?;
        for letter in self.poisons() {
            let (kind, error) = (letter.kind.as_deref(), letter.error.as_deref());
            write!(f, "; {}: {}: {}", number(letter), kind.unwrap_or("-"), error.unwrap_or("-"))?;
        }
        Ok(())
    }
}

impl Outcome {
    fn innocents(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.iter().filter(|letter| number(letter) < POISON)
    }

    fn poisons(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.iter().filter(|letter| number(letter) >= POISON)
    }

    fn faults(&self, row: &Row) -> Vec<String> {
        let mut faults = Vec::new();
        let mut demand = |is_so: bool, otherwise: &str| {
            if !is_so {
                faults.push(otherwise.to_owned());
            }
        };
        let ended = &format!("a worker ended by itself: {:?}", self.ended_otherwise);
        demand(self.ended_otherwise.is_none(), ended);
        demand(self.innocents().count() == 0, "innocents are dead");
        let is_bounded = self.until_done.is_some_and(|crashes| crashes <= row.bound);
        demand(is_bounded, &format!("the good ones were not done after {} crashes", row.bound));
        demand(self.left == 0, "messages are left");
        let mut dead: Vec<_> = self.poisons().map(number).collect();
        dead.sort_unstable();
        let all = dead.iter().copied().eq(POISON..POISON + row.poisons);
        demand(all || !row.dies, &format!("dead are {dead:?}, and not each poison once"));
        for letter in self.poisons() {
            let (kind, error) = (letter.kind.as_deref(), letter.error.as_deref().unwrap_or_default());
            demand(kind == Some("crash-loop"), &format!("a poison job is dead by {kind:?}"));
            demand(error.contains('3'), &format!("does not say how often: {error}"));
            let is_named = |process: &u32| error.contains(&format!(":{process}"));
            let named = self.crashed.iter().any(is_named);
            demand(named, &format!("names none of the processes {:?}: {error}", self.crashed));
        }
        faults
    }
}

fn number(letter: &DeadLetter) -> u64 {
    let job: serde_json::Value = serde_json::from_slice(&letter.payload).expect("JSON");
    job["number"].as_u64().expect("a number")
}
