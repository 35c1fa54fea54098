//! Enqueues many jobs, pipelined.

use bytes::Bytes;

use super::{Client, EnqueueResults, Enqueued, TRIES, enqueue_error};
use crate::broker::Publish;
use crate::envelope::JobId;
use crate::error::{EnqueueError, Error, PublishError, chain};
use crate::job::{IntoJob, Job};
use crate::seal::{Due, Kind, Options, encode};

/// A job of a batch: its message, and the parts to make that message again. A payload is shared, not copied.
struct Sealed {
    publish: Publish,
    again: Again,
}

/// The parts that a message is made of.
struct Again {
    id: JobId,
    payload: Bytes,
    options: Options,
}

impl Client {
    /// Enqueues many jobs of one task, payloads or [`Job`]s, without waiting for each confirm in turn, and reports each by
    /// itself, in their order. A job that fails does not keep the others from being enqueued;
    /// [`all_ok`](EnqueueResults::all_ok) makes one result of all. A batch may be of any size: a job times out only when the
    /// broker has taken none of the batch for the whole publish timeout.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Client, Job, task};
    /// # #[task(queue = "thumbnails")] async fn resize(image: u64) { let _ = image; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.enqueue_all((1..=100).map(|image| Resize { image })).await.all_ok()?;
    ///
    /// let one_a_second = (1..=100).map(|n| Job::new(Resize { image: n }).delay(Duration::from_secs(n)));
    /// let jobs = client.enqueue_all(one_a_second).await.all_ok()?;
    /// println!("the first is {}", jobs[0]);
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_all<J: IntoJob>(&self, jobs: impl IntoIterator<Item = J>) -> EnqueueResults {
        let kind = Kind::of::<J::Task>();
        let seal = |job: J| {
            let Job { payload, options } = job.into_job();
            self.seal_for_batch(kind, encode(&payload)?, options)
        };
        let sealed = jobs.into_iter().map(seal).collect();
        self.enqueue_sealed(kind, sealed).await
    }

    fn seal_for_batch(
        &self,
        kind: Kind,
        payload: Bytes,
        mut options: Options,
    ) -> Result<Sealed, EnqueueError> {
        let publish = self.sealer().job_around(kind, payload.clone(), options.clone())?;
        // Not among the options, where it would be one that a user has chosen: those are numbered.
        let id = publish.envelope.id.clone();
        // The moment stays, however late the job is sealed once more.
        options.due = publish.not_before.map_or(Due::Now, Due::At);
        Ok(Sealed { publish, again: Again { id, payload, options } })
    }

    /// The rest of `enqueue_all`, which is the same for all tasks.
    async fn enqueue_sealed(&self, kind: Kind, sealed: Vec<Result<Sealed, EnqueueError>>) -> EnqueueResults {
        if let Err(error) = self.declare_queue(kind.queue).await {
            let again = || Error::new(error.kind(), chain(&error));
            return sealed
                .into_iter()
                .map(|job| job.and_then(|_| Err(self.declare_error(kind.queue, again()))))
                .collect();
        }

        let mut jobs: Vec<Result<Again, EnqueueError>> = Vec::with_capacity(sealed.len());
        let mut batch = Vec::with_capacity(sealed.len());
        for job in sealed {
            jobs.push(job.map(|Sealed { publish, again }| {
                batch.push(publish);
                again
            }));
        }
        let mut outcomes = self.inner.broker.publish_all(batch).await;
        for _ in 1..TRIES {
            if !self.publish_again(kind, jobs.iter().flatten(), &mut outcomes).await {
                break;
            }
        }
        let mut outcomes = outcomes.into_iter();
        jobs.into_iter()
            .map(|job| {
                let Again { id, .. } = job?;
                let outcome = outcomes.next().unwrap_or(Err(PublishError::Closed));
                outcome.map(|()| Enqueued::new(id)).map_err(|error| enqueue_error(kind.queue, error))
            })
            .collect()
    }

    /// Declares the queue again and republishes the jobs that did not reach it, where it was deleted since we declared it.
    /// Returns false if there were none.
    async fn publish_again(
        &self,
        kind: Kind,
        jobs: impl Iterator<Item = &Again>,
        outcomes: &mut [Result<(), PublishError>],
    ) -> bool {
        let unroutable = |outcome: &Result<(), _>| matches!(outcome, Err(PublishError::Unroutable { .. }));
        let refused = |outcome: &Result<(), _>| matches!(outcome, Err(PublishError::QueueFull { .. }));
        let are_unroutable = outcomes.iter().any(unroutable);
        let are_refused = outcomes.iter().any(refused) && self.refuses_for_a_moment(kind.queue).await;
        if are_unroutable {
            self.forget(kind.queue.name());
        }
        // If it cannot be declared, the jobs keep their outcome, which names the queue.
        if !(are_unroutable || are_refused) || self.declare_queue(kind.queue).await.is_err() {
            return false;
        }
        let mut failed = Vec::new();
        let mut batch = Vec::new();
        for (job, outcome) in jobs.zip(outcomes) {
            if (unroutable(outcome) || are_refused && refused(outcome))
                // It was sealed before, so it is again.
                && let Ok(mut publish) =
                    self.sealer().job_around(kind, job.payload.clone(), job.options.clone())
            {
                publish.envelope.id = job.id.clone();
                batch.push(publish);
                failed.push(outcome);
            }
        }
        for (outcome, again) in failed.into_iter().zip(self.inner.broker.publish_all(batch).await) {
            *outcome = again;
        }
        true
    }
}
