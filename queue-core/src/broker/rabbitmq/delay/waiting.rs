//! How long a delayed job has yet to wait, as its headers say it. The server measures: each rung that the job has passed is
//! so much time that has certainly gone by, and where the server's clock says that more has (it was down, or no worker
//! was there), that counts too. No other clock does, since it may be wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::to_millis;
use crate::death;
use crate::envelope::{Envelope, HeaderValue, Headers, header};
use crate::settlement::strip_broker_traces;
use crate::topology::{Name, Namespace, rung_for, rung_wait};

/// The fields of [`header::WAIT`].
const RUNG: &str = "rung";
const LEFT: &str = "left";
const UNTIL: &str = "until";

/// A delayed job's target and what is left of its delay.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    /// The queue that it is for.
    pub(crate) target: Name,
    /// At most so much is left.
    pub(crate) left: Duration,
    /// When it is due at the latest, in milliseconds of the server's clock, where that is known.
    until: Option<i64>,
    /// For how long its queue has been missing.
    pub(crate) missing: Duration,
}

/// Between which moments the server's clock is now, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    pub(super) earliest: i64,
    pub(super) latest: i64,
}

/// The time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// By this machine's clock.
    pub(super) wall: SystemTime,
    /// By the server's, where that is known.
    pub(super) server: Option<Reading>,
}

impl Waiting {
    /// A wait that begins now.
    pub(crate) fn new(target: Name, left: Duration, now: Now) -> Self {
        let until = now.server.map(|server| server.latest.saturating_add(millis(left)));
        Self { target, left, until, missing: Duration::ZERO }
    }

    /// Marks an envelope as delayed, for the rung that is nearest below what is left. The ladder carries no priority, so that
    /// nothing overtakes there.
    pub(crate) fn write(&self, mut envelope: Envelope, namespace: &Namespace, now: Now) -> (Envelope, Name) {
        strip_broker_traces(&mut envelope);
        let rung = rung_for(self.left);
        let after = self.left.saturating_sub(rung.map_or(Duration::ZERO, rung_wait));
        let mut wait = Headers::from([(LEFT, HeaderValue::Int(millis(after)))]);
        if let Some(rung) = rung {
            wait.insert(RUNG, i64::from(rung));
        }
        if let Some(until) = self.until {
            wait.insert(UNTIL, until);
        }
        envelope.headers.insert(header::WAIT, HeaderValue::Table(wait));
        // For older versions, and people who look: by the server's clock where that is known, else by this machine's.
        let by_wall =
            || now.wall.checked_add(self.left).map_or(i64::MAX, |eta| to_millis(eta).saturating_add(1));
        envelope.headers.insert(header::ETA, self.until.unwrap_or_else(by_wall));
        envelope.headers.insert(header::TARGET, &*self.target);
        if !self.missing.is_zero() {
            envelope.headers.insert(header::MISSING, millis(self.missing));
        }
        if let Some(priority) = envelope.priority.take() {
            envelope.headers.insert(header::PRIORITY, i64::from(priority));
        }
        // It would expire on its rung, and be early.
        envelope.expiration = None;
        (envelope, rung.map_or_else(|| namespace.due(), |rung| namespace.rung(rung)))
    }

    /// The reverse, in `due`: the job as it was published, and its wait. `None` if it is no delayed job at all.
    pub(crate) fn read(envelope: &Envelope, namespace: &Namespace, now: Now) -> Option<(Envelope, Self)> {
        let mut job = envelope.clone();
        strip_broker_traces(&mut job);
        let target: Name = match job.headers.remove(header::TARGET) {
            Some(HeaderValue::String(target)) if !target.is_empty() => target.into(),
            _ => return None,
        };
        let eta = job.headers.remove(header::ETA).and_then(|eta| eta.as_int()).unwrap_or(0);
        let missing = job.headers.remove(header::MISSING).and_then(|millis| millis.as_int()).unwrap_or(0);
        if let Some(priority) = job.headers.remove(header::PRIORITY).and_then(|value| value.as_int()) {
            job.priority = u8::try_from(priority).ok();
        }
        let death = last_death(envelope);
        let wait =
            job.headers.remove(header::WAIT).and_then(|wait| counted(&wait, death.as_ref(), namespace));
        let second = death.map(|(_, second)| second.saturating_mul(1000));
        let (left, until) = match wait {
            Some((left, until)) => {
                // It left its rung in that second.
                let latest = second.map(|second| second.saturating_add(1000).saturating_add(left));
                let until = until.into_iter().chain(latest).min();
                let earliest = now.server.map(|server| server.earliest).into_iter().chain(second).max();
                let by_clock = until.zip(earliest).map(|(until, now)| until.saturating_sub(now));
                (by_clock.map_or(left, |by_clock| by_clock.min(left)), until)
            }
            // An older version's, another program's, or passed on by an older version since.
            None => match now.server {
                Some(server) => (eta.saturating_sub(server.earliest), Some(eta)),
                None => (eta.saturating_sub(to_millis(now.wall)), None),
            },
        };
        Some((job, Self { target, left: duration(left), until, missing: duration(missing) }))
    }
}

/// The rest of the delay when the job came from the rung on which it waited last, and its end; `None` if it came from another rung
/// than the header is for.
fn counted(
    wait: &HeaderValue,
    death: Option<&(Name, i64)>,
    namespace: &Namespace,
) -> Option<(i64, Option<i64>)> {
    let HeaderValue::Table(wait) = wait else { return None };
    let field = |name| wait.get(name).and_then(HeaderValue::as_int);
    let is_from = match (field(RUNG), death) {
        (None, None) => true,
        (Some(rung), Some((queue, _))) => {
            u32::try_from(rung).is_ok_and(|rung| namespace.rung(rung) == *queue)
        }
        _ => false,
    };
    is_from.then_some((field(LEFT)?, field(UNTIL)))
}

/// The queue in which a message expired last, and in which second of the server's clock.
pub(super) fn last_death(envelope: &Envelope) -> Option<(Name, i64)> {
    let death = death::last(envelope)?;
    let second = death.at()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some((death.queue()?.to_owned().into(), i64::try_from(second).ok()?))
}

/// Rounded up: a job may be late by a millisecond, but never early.
fn millis(duration: Duration) -> i64 {
    let up = duration.saturating_add(Duration::from_nanos(999_999));
    i64::try_from(up.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests;
