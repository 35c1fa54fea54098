//! The result of `enqueue`: a job that the broker has.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Serialize, Serializer};

use crate::envelope::JobId;

/// A job that the broker has, as [`Client::enqueue`](super::Client::enqueue) returns it. It displays, compares and
/// converts as the job's id.
///
/// ```
/// use leveret::JobId;
/// # use leveret::{Client, task};
/// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
///
/// let job = client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
/// println!("enqueued {job}");
/// let id: JobId = job.into();
/// # let _ = id;
/// # Ok(()) }
/// ```
///
/// The job is always a new one: brokers do not look for another job of the same id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Enqueued {
    id: JobId,
}

impl Enqueued {
    pub(super) fn new(id: JobId) -> Self {
        Self { id }
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.id
    }
}

impl Deref for Enqueued {
    type Target = JobId;

    fn deref(&self) -> &JobId {
        &self.id
    }
}

/// Lets a map whose keys are enqueued jobs be looked up by a [`JobId`].
impl Borrow<JobId> for Enqueued {
    fn borrow(&self) -> &JobId {
        &self.id
    }
}

impl AsRef<JobId> for Enqueued {
    fn as_ref(&self) -> &JobId {
        &self.id
    }
}

impl From<Enqueued> for JobId {
    fn from(job: Enqueued) -> Self {
        job.id
    }
}

impl PartialEq<JobId> for Enqueued {
    fn eq(&self, id: &JobId) -> bool {
        self.id == *id
    }
}

impl PartialEq<Enqueued> for JobId {
    fn eq(&self, job: &Enqueued) -> bool {
        *self == job.id
    }
}

impl fmt::Display for Enqueued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for Enqueued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

/// Serialises as its id.
impl Serialize for Enqueued {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_reads_as_the_id() {
        let id = JobId::from("order 7");
        let job = Enqueued::new(id.clone());

        assert_eq!(job.to_string(), "order 7");
        assert_eq!(format!("{job:?}"), format!("{id:?}"));
        assert_eq!(serde_json::to_string(&job).unwrap(), "\"order 7\"");
        assert_eq!(job.as_str(), "order 7");
        assert_eq!(job, id);
        assert_eq!(id, job);
        assert!(HashSet::from([job.clone()]).contains(&id));
        assert_eq!(JobId::from(job), id);
    }
}
