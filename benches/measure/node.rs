//! A RabbitMQ node that is there for one bench alone.

use std::process::{Command, ExitCode};

/// Runs this program again, with a node that is there for it alone.
pub(crate) fn with_own_node() -> ExitCode {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/rabbitmq");
    let inner = "LEVERET_BENCH_URL=$LEVERET_URL exec \"$0\" \"$@\"";
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(script)
        .args(["run", "3", "--", "sh", "-c", inner])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{script} could not be run: {error}; or name a node with LEVERET_BENCH_URL");
            ExitCode::FAILURE
        }
    }
}
