//! Wall time, CPU time, medians: shared by the benches.

use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

/// What one round of one contender took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// How many jobs were done.
    pub(crate) jobs: usize,
    /// By the clock on the wall.
    pub(crate) wall: Duration,
    /// Of this process, over all its threads.
    pub(crate) cpu: Duration,
}

impl Sample {
    /// Jobs per second.
    pub(crate) fn rate(&self) -> f64 {
        self.jobs as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds of CPU per job.
    pub(crate) fn cpu_per_job(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.jobs as f64
    }
}

/// A running measurement.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: ProcessTime,
}

impl Stopwatch {
    /// Starts.
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: ProcessTime::now() }
    }

    /// What it took to do `jobs` jobs.
    pub(crate) fn stop(&self, jobs: usize) -> Sample {
        Sample { jobs, wall: self.wall.elapsed(), cpu: self.cpu.elapsed() }
    }
}

/// The middle one of `values`, and the lowest and highest.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
