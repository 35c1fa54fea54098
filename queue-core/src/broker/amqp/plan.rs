//! Decides what a settlement does to a delivery: once for all brokers, as plain data. Between a broker's settler and what
//! keeps its messages.
//!
//! Memory and SQLite carry a [`Plan`] out in one transaction. RabbitMQ does it one step after the other, and so can any
//! other store: first the copy, and when the broker has it, the original.

use std::time::SystemTime;

use crate::broker::Publish;
use crate::clock::moment_after;
use crate::envelope::Envelope;
use crate::error::{PublishError, SettleError};
use crate::settlement::{Reason, Settlement, dead_copy, moved_copy, retry_copy, snooze_copy};
use crate::topology::Route;

/// The steps by which a broker settles a delivery.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    /// Forget the original.
    Ack,
    /// Put the original back into its queue, as it came.
    Release,
    /// Keep `copy` outside of any queue and forget the original. When `due` has come, the copy goes into the queue that
    /// the original came from.
    Delay { copy: Envelope, due: SystemTime },
    /// Publish the copy and forget the original. An original whose copy is refused stays a delivery.
    Publish(Publish),
    /// Forget the original, which is lost thereby: call [`tell_loss`](Self::tell_loss).
    Drop { job: Envelope, reason: Reason },
}

impl Plan {
    /// The plan of `settlement` for `job`, a delivery of `queue` whose consumer sends dead letters to `dead_letter`. `now`
    /// is asked only where it is needed: most settlements are acks, for which asking takes long.
    pub(crate) fn new(
        settlement: Settlement,
        job: Envelope,
        queue: &str,
        dead_letter: Option<&Route>,
        now: impl FnOnce() -> SystemTime,
    ) -> Self {
        match (settlement, dead_letter) {
            (Settlement::Ack, _) => Self::Ack,
            (Settlement::Release, _) => Self::Release,
            (Settlement::Retry { after, attempt, reason }, _) => {
                let now = now();
                let due = moment_after(now, after);
                Self::Delay { copy: retry_copy(job, attempt, &reason, now), due }
            }
            (Settlement::Snooze { until }, _) => Self::Delay { copy: snooze_copy(job), due: until },
            (Settlement::Move { queue, headers }, _) => {
                Self::Publish(Publish::to_queue(queue, moved_copy(job, headers)))
            }
            (Settlement::DeadLetter { reason }, Some(route)) => {
                let envelope = dead_copy(job, queue, &reason, now());
                Self::Publish(Publish { route: route.clone(), envelope, mandatory: true, not_before: None })
            }
            (Settlement::DeadLetter { reason }, None) => Self::Drop { job, reason },
        }
    }

    /// True if a copy takes the original's place. Only then `Ok` promises that the broker keeps something.
    #[cfg_attr(not(feature = "sqlite-system"), allow(dead_code, reason = "others cannot fail in between"))]
    pub(crate) fn makes_copy(&self) -> bool {
        matches!(self, Self::Delay { .. } | Self::Publish(_))
    }

    /// The error for the settlement's sender when the broker failed to carry the plan out, for the reason that a publish
    /// would be told.
    #[cfg_attr(not(feature = "sqlite-system"), allow(dead_code, reason = "as above"))]
    pub(crate) fn failed(&self, reason: PublishError) -> SettleError {
        if self.makes_copy() { SettleError::Republish(reason) } else { SettleError::Lost }
    }

    /// Logs a job that is lost for good. To be called once, when the original of `queue` has been forgotten.
    pub(crate) fn tell_loss(&self, queue: &str) {
        if let Self::Drop { job, reason } = self {
            let (id, task) = (job.id.as_str(), job.task.as_deref());
            tracing::error!(queue, job = id, task, %reason, "a failed job is dropped: its queue has no dead letters");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::envelope::header;
    use crate::settlement::ReasonKind;

    const NOW: SystemTime = UNIX_EPOCH;

    fn failed() -> Reason {
        Reason::new(ReasonKind::Failed, "mail server said 451")
    }

    fn plan(settlement: Settlement, dead_letter: Option<&Route>) -> Plan {
        Plan::new(settlement, Envelope::new("{}"), "emails", dead_letter, || NOW)
    }

    #[test]
    fn retry_waits_for_its_time_as_a_copy() {
        let retry = |after| Settlement::Retry { after, attempt: 3, reason: failed() };

        let plan = plan(retry(Duration::from_secs(4)), None);

        let Plan::Delay { copy, due } = &plan else { panic!("{plan:?}") };
        assert_eq!((copy.attempt, *due), (3, NOW + Duration::from_secs(4)));
        assert!(copy.headers.get(header::ERROR).is_some());
        assert!(plan.makes_copy());
    }

    #[test]
    fn retry_beyond_all_time_waits_for_a_century() {
        let settlement = Settlement::Retry { after: Duration::MAX, attempt: 2, reason: failed() };

        let Plan::Delay { due, .. } = plan(settlement, None) else { panic!("no delay") };

        assert_eq!(due, NOW + Duration::from_secs(100 * 365 * 24 * 3600));
    }

    #[test]
    fn snooze_waits_for_its_time_as_a_copy_without_an_attempt() {
        let until = NOW + Duration::from_secs(4);

        let plan = plan(Settlement::Snooze { until }, None);

        let Plan::Delay { copy, due } = &plan else { panic!("{plan:?}") };
        assert_eq!((copy.attempt, copy.copy_number(), *due), (1, 1, until));
        assert_eq!(copy.headers.get(header::ERROR), None);
        assert!(plan.makes_copy());
    }

    #[test]
    fn dead_letter_is_published_to_its_route_and_must_arrive() {
        let route = Route { exchange: "emails.dlx".into(), routing_key: "failed".into() };

        let plan = plan(Settlement::DeadLetter { reason: failed() }, Some(&route));

        let Plan::Publish(publish) = &plan else { panic!("{plan:?}") };
        assert_eq!((&publish.route, publish.mandatory, publish.not_before), (&route, true, None));
        assert_eq!(publish.envelope.headers.get(header::QUEUE), Some(&"emails".into()));
        assert!(plan.makes_copy());
    }

    #[test]
    fn dead_letter_without_a_route_is_dropped() {
        let plan = plan(Settlement::DeadLetter { reason: failed() }, None);

        assert!(matches!(&plan, Plan::Drop { reason, .. } if *reason == failed()), "{plan:?}");
        assert!(!plan.makes_copy());
    }

    #[test]
    fn what_makes_no_copy_is_lost_when_it_fails() {
        let fail = |settlement| plan(settlement, None).failed(PublishError::Closed);
        let retry = Settlement::Retry { after: Duration::ZERO, attempt: 2, reason: failed() };

        assert!(matches!(fail(Settlement::Ack), SettleError::Lost));
        assert!(matches!(fail(Settlement::Release), SettleError::Lost));
        assert!(matches!(fail(retry), SettleError::Republish(PublishError::Closed)));
    }
}
