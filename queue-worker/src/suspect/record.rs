//! The record of a job's lost holders, from the counts and marks of its delivery. Pure; read by `inspect`.
//!
//! A mark is one run that was begun alone: process, moment and worker. The last one is about to run or runs; those before it
//! have ended their processes.

use std::fmt;
use std::time::SystemTime;

use queue_core::broker::{Delivery, Returns};
use queue_core::clock::{from_millis, to_millis};
use queue_core::envelope::{HeaderValue, Headers, header};

/// The largest number of marks that a job keeps. A crash limit is no higher.
const MOST: usize = 100;
/// The largest number of marks that the reason of a dead letter names.
const SHOWN: usize = 5;

/// A run that was begun alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The process, as [`Liveness`](queue_core::broker::Liveness) names it.
    pub(crate) process: String,
    pub(crate) at: SystemTime,
    /// The worker's name, for people.
    pub(crate) worker: String,
}

impl Mark {
    fn read(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (process, millis, worker) = (words.next()?, words.next()?, words.next()?);
        let at = from_millis(millis.parse().ok()?);
        Some(Self { process: process.to_owned(), at, worker: worker.to_owned() })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.process, to_millis(self.at), self.worker)
    }
}

/// The record of a job's earlier holders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The number of holders that were lost with the job, as far as known.
    pub(crate) crashes: u64,
    /// True if the message does not count the last holder yet, since the broker does not count.
    pub(crate) is_uncounted: bool,
    /// The runs alone, in their order.
    pub(crate) marks: Vec<Mark>,
    /// True if this copy was never held: the run of the last mark, if any, has not begun.
    pub(crate) is_first: bool,
}

impl Record {
    /// True if there is anything to read. Called before each job.
    pub(crate) fn is_there(delivery: &Delivery) -> bool {
        delivery.returns != Returns::Never || delivery.envelope.headers.get(header::CRASHES).is_some()
    }

    pub(crate) fn of(delivery: &Delivery) -> Self {
        let headers = &delivery.envelope.headers;
        let noted = headers.get(header::CRASHES).and_then(HeaderValue::as_int);
        let noted = noted.and_then(|noted| u64::try_from(noted).ok()).unwrap_or(0);
        let (crashes, is_uncounted) = match delivery.returns {
            Returns::Counted(count) => (noted.saturating_add(count), false),
            Returns::Uncounted => (noted.saturating_add(1), true),
            _ => (noted, false),
        };
        let is_first = delivery.returns == Returns::Never;
        Self { crashes, is_uncounted, marks: marks(headers), is_first }
    }

    /// The headers of a copy, from which its next holder reads the same record.
    pub(crate) fn headers(&self) -> Headers {
        let mut headers = Headers::new();
        headers.insert(header::CRASHES, i64::try_from(self.crashes).unwrap_or(i64::MAX));
        headers.insert(header::BEGUN, if self.marks.is_empty() { HeaderValue::Null } else { self.list() });
        headers
    }

    /// The marks as the value of the header.
    pub(crate) fn list(&self) -> HeaderValue {
        let from = self.marks.len().saturating_sub(MOST);
        HeaderValue::List(self.marks[from..].iter().map(|mark| mark.to_string().into()).collect())
    }

    /// The last runs alone, for people.
    pub(crate) fn words(&self) -> String {
        let from = self.marks.len().saturating_sub(SHOWN);
        let shown = self.marks[from..]
            .iter()
            .map(|mark| format!("on {} at {}", mark.worker, humantime::format_rfc3339_seconds(mark.at)));
        shown.collect::<Vec<_>>().join(", ")
    }
}

fn marks(headers: &Headers) -> Vec<Mark> {
    let Some(HeaderValue::List(list)) = headers.get(header::BEGUN) else { return Vec::new() };
    list.iter().filter_map(|mark| Mark::read(mark.as_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use queue_core::broker::Settler;
    use queue_core::envelope::Envelope;
    use queue_core::error::SettleError;
    use queue_core::settlement::Settlement;

    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    #[async_trait]
    impl Settler for Nowhere {
        async fn settle(self: Box<Self>, _: Envelope, _: Settlement) -> Result<(), SettleError> {
            Ok(())
        }
    }

    fn delivery(headers: Headers, returns: Returns) -> Delivery {
        let mut job = Envelope::new("{}");
        job.headers = headers;
        let mut delivery = Delivery::new(job, "emails".into(), Box::new(Nowhere));
        delivery.returns = returns;
        delivery
    }

    fn mark(process: &str) -> Mark {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_444_000_123);
        Mark { process: process.to_owned(), at, worker: "shop worker@host:7".to_owned() }
    }

    #[test]
    fn new_job_has_no_record() {
        assert!(!Record::is_there(&delivery(Headers::new(), Returns::Never)));
        assert!(Record::is_there(&delivery(Headers::new(), Returns::Counted(0))));
    }

    #[test]
    fn what_was_noted_and_what_the_broker_counts_add_up() {
        let mut noted = Headers::new();
        noted.insert(header::CRASHES, 2_i64);
        let of = |returns| {
            let record = Record::of(&delivery(noted.clone(), returns));
            (record.crashes, record.is_uncounted, record.is_first)
        };

        assert_eq!(of(Returns::Never), (2, false, true));
        assert_eq!(of(Returns::Counted(3)), (5, false, false));
        assert_eq!(of(Returns::Uncounted), (3, true, false));
        noted.insert(header::CRASHES, -7_i64);
        assert_eq!(Record::of(&delivery(noted, Returns::Never)).crashes, 0, "it is forged");
    }

    #[test]
    fn marks_are_read_as_they_were_written() {
        let record =
            Record { crashes: 3, is_uncounted: false, marks: vec![mark("a"), mark("b")], is_first: true };

        assert_eq!(Record::of(&delivery(record.headers(), Returns::Never)), record);
        assert!(
            record.words().contains("on shop worker@host:7 at 2025-11-29T19:20:00Z"),
            "{}",
            record.words()
        );
    }

    #[test]
    fn marks_that_make_no_sense_are_passed_over_and_too_many_are_cut() {
        let mut forged = Headers::new();
        let list = ["", "a", "a b c", "a 12", "a 12 w"].map(HeaderValue::from).to_vec();
        forged.insert(header::BEGUN, HeaderValue::List(list));
        assert_eq!(Record::of(&delivery(forged, Returns::Never)).marks.len(), 1);

        let marks = vec![mark("a"); 3 * MOST];
        let record = Record { crashes: 3, is_uncounted: false, marks, is_first: true };
        assert_eq!(Record::of(&delivery(record.headers(), Returns::Never)).marks.len(), MOST);
    }
}
