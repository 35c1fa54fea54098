//! Computes how long a broker must wait for the settlement of a delivery, so that it takes no job from a worker while it runs.
//! Pure; used by `lane`.

use std::time::Duration;

/// RabbitMQ's default. A lower value would shorten the wait of a server that is configured for longer.
const LEAST: Duration = Duration::from_secs(30 * 60);
/// For the settlement after the job: its retry or dead letter may have to wait for a broker that is away or short of space.
const GRACE: Duration = Duration::from_secs(10 * 60);
/// For a task without a timeout. The broker cuts it to the most that the server takes.
const WITHOUT_END: Duration = Duration::MAX;

/// The least time that lets every job end: the last of `prefetch` deliveries waits until all before it have ended, of which
/// `concurrency` run at once, for as long as the longest of their `timeouts`. At least 30 min; without end where a task has
/// no timeout.
pub(crate) fn least(
    prefetch: u16,
    concurrency: u16,
    timeouts: impl IntoIterator<Item = Option<Duration>>,
) -> Duration {
    let turns = u32::from(prefetch.div_ceil(concurrency.max(1)));
    let longest =
        timeouts.into_iter().map(|timeout| timeout.unwrap_or(WITHOUT_END)).max().unwrap_or_default();
    longest.saturating_mul(turns).saturating_add(GRACE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn short_jobs_get_what_rabbitmq_gives_by_itself() {
        assert_eq!(least(10, 10, [Some(MINUTE), Some(2 * MINUTE)]), 30 * MINUTE);
        assert_eq!(least(1, 1, []), 30 * MINUTE);
    }

    #[test]
    fn delivery_that_waits_for_others_gets_their_time_too() {
        assert_eq!(least(1, 1, [Some(MINUTE), Some(60 * MINUTE)]), 70 * MINUTE);
        assert_eq!(least(7, 3, [Some(60 * MINUTE)]), (3 * 60 + 10) * MINUTE);
    }

    #[test]
    fn task_without_a_timeout_is_waited_for_without_end() {
        assert_eq!(least(7, 3, [Some(MINUTE), None]), Duration::MAX);
    }
}
