//! SIGTERM and SIGINT, on a process of their own: this test program, started once more.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leveret::Worker;

use crate::support::{client, options, queue, task};

task!(Ends {} = "ends", queue: queue("signal"), options: options(), needs: [],
async |_call, _job| {
    // Until the worker stops: so the test needs no second channel into the process. Before it says so, or the signal may come
    // sooner than it is listened for.
    let mut stops = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    println!("job runs");
    stops.recv().await;
    println!("job ended");
});
task!(Hangs {} = "hangs", queue: queue("signal"), options: options(), needs: [],
async |_call, _job| {
    println!("job runs");
    std::future::pending::<()>().await;
});

task!(Blocks {} = "blocks", queue: queue("signal"), options: options(), needs: [],
blocking |_call, _job| {
    println!("job runs");
    park();
});
task!(BlocksItsThread {} = "blocks_its_thread", queue: queue("signal"), options: options(), needs: [],
async |_call, _job| {
    println!("job runs");
    park();
});

/// Holds its thread until the process ends.
fn park() {
    loop {
        std::thread::park();
    }
}

/// Not a test: what the tests below start as a process. Which job it runs stands in the environment.
#[test]
#[ignore = "the process that the other tests here start"]
fn process() {
    let Ok(job) = std::env::var("LEVERET_TEST_SIGNAL_JOB") else { return };
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stdout).init();
    let timeout = std::env::var("LEVERET_TEST_SIGNAL_TIMEOUT").map_or(30, |seconds| seconds.parse().unwrap());
    // As `#[tokio::main]` makes it: one thread for `main`, and others for what it spawns.
    let runtime = match std::env::var("LEVERET_TEST_SIGNAL_RUNTIME").as_deref() {
        Ok("one thread") => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    };
    let result = runtime.block_on(async {
        let (client, _clock) = client();
        match job.as_str() {
            "ends" => client.enqueue(Ends {}).await.unwrap(),
            "blocks" => client.enqueue(Blocks {}).await.unwrap(),
            "blocks_its_thread" => client.enqueue(BlocksItsThread {}).await.unwrap(),
            _ => client.enqueue(Hangs {}).await.unwrap(),
        };
        let worker = Worker::new(&client).task::<Ends>().task::<Hangs>().task::<Blocks>();
        let mut worker = worker.task::<BlocksItsThread>().shutdown_timeout(Duration::from_secs(timeout));
        if std::env::var("LEVERET_TEST_SIGNAL_STOPPED").is_ok() {
            let handle = worker.handle();
            worker = worker.on_event(move |_| handle.shutdown());
        }
        worker.run().await
    });
    // `main` returns, and waits for what still runs on its runtime.
    println!("main ends");
    drop(runtime);
    match result {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Starts a worker, and waits until its job runs.
    fn with(job: &str) -> Self {
        Self::start(job, &[])
    }

    fn start(job: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["signal::process", "--exact", "--ignored", "--nocapture"])
            .env("LEVERET_TEST_SIGNAL_JOB", job)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, output };
        process.wait_for("job runs");
        process
    }

    /// The line in which it says so.
    fn wait_for(&mut self, words: &str) -> String {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "ended without saying `{words}`");
        }
        line
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code, and what else it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn sigterm_waits_for_the_running_job_and_exits_0() {
    let process = Process::with("ends");

    process.signal("TERM");

    let (code, rest) = process.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("job ended"), "{rest}");
}

#[test]
fn second_signal_stops_at_once() {
    let process = Process::with("hangs");

    // The same signal twice may arrive as one, so two different ones.
    process.signal("TERM");
    process.signal("INT");

    let (code, rest) = process.end();
    assert_eq!(code, Some(1), "{rest}");
    assert!(
        rest.contains("the worker was stopped at once; 1 running jobs were cut off and run again"),
        "{rest}"
    );
}

#[test]
fn second_signal_ends_the_process_under_a_function_that_cannot_be_stopped() {
    let mut process = Process::with("blocks");

    process.signal("TERM");
    let said = process.wait_for("which cannot be stopped");
    assert!(said.contains("`blocks` (job ") && said.contains("ends_process=true"), "{said}");
    process.signal("INT");

    let (code, rest) = process.end();
    assert_eq!(code, Some(130), "{rest}");
    // `main` had its time.
    assert!(rest.contains("main ends") && rest.contains("the process ends under"), "{rest}");
}

#[test]
fn second_signal_ends_the_process_under_a_job_that_blocks_its_thread() {
    let mut process = Process::with("blocks_its_thread");

    process.signal("INT");
    process.wait_for("worker stops; a second signal stops it at once");
    process.signal("TERM");

    let (code, rest) = process.end();
    assert_eq!(code, Some(143), "{rest}");
    assert!(rest.contains("the process ends under"), "{rest}");
}

/// There the worker itself hears no signal.
#[test]
fn second_signal_ends_the_process_under_a_job_that_blocks_the_only_thread() {
    let process = Process::start("blocks_its_thread", &[("LEVERET_TEST_SIGNAL_RUNTIME", "one thread")]);

    process.signal("TERM");
    process.signal("INT");

    let (code, rest) = process.end();
    assert_eq!(code, Some(130), "{rest}");
    assert!(rest.contains("block all threads of its runtime"), "{rest}");
}

/// Whatever has stopped it, it is the second signal that does so at once.
#[test]
fn first_signal_to_a_worker_that_stops_already_cuts_nothing_off() {
    let mut process = Process::start("hangs", &[("LEVERET_TEST_SIGNAL_STOPPED", "yes")]);

    process.signal("TERM");
    process.wait_for("worker stops already");
    process.signal("INT");

    let (code, rest) = process.end();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("second signal: worker stops at once"), "{rest}");
}

/// tokio waits for the function, and has taken the signals' own effect away.
#[test]
fn signal_after_the_worker_has_stopped_ends_the_process_under_a_function() {
    let mut process = Process::start("blocks", &[("LEVERET_TEST_SIGNAL_TIMEOUT", "0")]);

    process.signal("TERM");
    process.wait_for("main ends");
    process.signal("TERM");

    let (code, rest) = process.end();
    assert_eq!(code, Some(143), "{rest}");
    assert!(rest.contains("the process ends under"), "{rest}");
}
