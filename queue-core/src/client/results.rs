//! The results of `enqueue_all`: one for each job, and one for all.

use std::ops::Deref;

use super::Enqueued;
use crate::error::{EnqueueError, Error, ErrorKind};

/// The result of each job of [`Client::enqueue_all`](super::Client::enqueue_all), in their order.
/// [`all_ok`](Self::all_ok) makes one result of them.
///
/// ```
/// # use leveret::{Client, task};
/// # #[task(queue = "thumbnails")] async fn resize(image: u64) { let _ = image; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// let images = [7, 8, 9];
/// let results = client.enqueue_all(images.map(|image| Resize { image })).await;
/// for (image, result) in images.iter().zip(results) {
///     match result {
///         Ok(job) => println!("image {image} is job {job}"),
///         Err(error) => println!("image {image} was not enqueued: {error}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "each result says whether its job was enqueued: `.all_ok()?` asks for all at once"]
pub struct EnqueueResults(Vec<Result<Enqueued, EnqueueError>>);

impl EnqueueResults {
    /// The jobs, if all of them were enqueued.
    ///
    /// ```
    /// # use leveret::{Client, task};
    /// # #[task(queue = "thumbnails")] async fn resize(image: u64) { let _ = image; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let jobs = client.enqueue_all((1..=3).map(|image| Resize { image })).await.all_ok()?;
    /// assert_eq!(jobs.len(), 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If at least one was not enqueued. The others are enqueued nevertheless, and the error has the result of each.
    pub fn all_ok(self) -> Result<Vec<Enqueued>, EnqueueAllError> {
        match self.0.iter().position(Result::is_err) {
            None => Ok(self.0.into_iter().flatten().collect()),
            Some(first) => Err(EnqueueAllError { results: self, first }),
        }
    }
}

impl Deref for EnqueueResults {
    type Target = [Result<Enqueued, EnqueueError>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl IntoIterator for EnqueueResults {
    type Item = Result<Enqueued, EnqueueError>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'r> IntoIterator for &'r EnqueueResults {
    type Item = &'r Result<Enqueued, EnqueueError>;
    type IntoIter = std::slice::Iter<'r, Result<Enqueued, EnqueueError>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromIterator<Result<Enqueued, EnqueueError>> for EnqueueResults {
    fn from_iter<I: IntoIterator<Item = Result<Enqueued, EnqueueError>>>(results: I) -> Self {
        Self(results.into_iter().collect())
    }
}

/// The error of a batch of which some jobs were not enqueued: it says how many, and why the first of them was not. From
/// [`EnqueueResults::all_ok`].
///
/// ```
/// # use leveret::{Client, EnqueueAllError, task};
/// # #[task(queue = "thumbnails", max_length = 2)] async fn resize(image: u64) { let _ = image; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// // A queue that holds two jobs at most.
/// let batch = client.enqueue_all((1..=3).map(|image| Resize { image })).await;
///
/// let error: EnqueueAllError = batch.all_ok().unwrap_err();
/// assert_eq!(error.failed(), 1);
/// assert!(error.results()[0].is_ok());
/// # Ok(()) }
/// ```
pub struct EnqueueAllError {
    results: EnqueueResults,
    /// The first that is an error.
    first: usize,
}

impl EnqueueAllError {
    /// How many jobs were not enqueued.
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| result.is_err()).count()
    }

    /// The result of each job, in their order.
    pub fn results(&self) -> &[Result<Enqueued, EnqueueError>] {
        &self.results
    }

    /// The result of each job, in their order.
    pub fn into_results(self) -> EnqueueResults {
        self.results
    }
}

/// Prints the chain of causes, as [`Error`] does, since a `main` prints it; `{:#?}` prints each result.
impl std::fmt::Debug for EnqueueAllError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !f.alternate() {
            return f.write_str(&crate::error::chain(self));
        }
        let Self { results, first } = self;
        f.debug_struct("EnqueueAllError").field("results", results).field("first", first).finish()
    }
}

impl std::fmt::Display for EnqueueAllError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (failed, total, first) = (self.failed(), self.results.len(), self.first + 1);
        write!(f, "{failed} of {total} jobs were not enqueued, the first of them number {first}")
    }
}

impl std::error::Error for EnqueueAllError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.results.get(self.first)?.as_ref().err().map(|error| error as _)
    }
}

/// Lets `?` convert it. The original error is the `source()`.
impl From<EnqueueAllError> for Error {
    fn from(error: EnqueueAllError) -> Self {
        Self::new(ErrorKind::Enqueue, "a batch was not enqueued as a whole").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::JobId;
    use crate::error::chain;

    fn enqueued(id: &str) -> Result<Enqueued, EnqueueError> {
        Ok(Enqueued::new(JobId::from(id)))
    }

    fn full() -> Result<Enqueued, EnqueueError> {
        Err(EnqueueError::QueueFull { queue: "thumbs".to_owned() })
    }

    #[test]
    fn all_that_went_well_are_jobs() {
        let jobs = EnqueueResults::from_iter([enqueued("a"), enqueued("b")]).all_ok().unwrap();

        assert_eq!(jobs.iter().map(|job| job.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(EnqueueResults::from_iter([]).all_ok().unwrap().is_empty());
    }

    #[test]
    fn one_that_did_not_is_an_error_that_has_them_all() {
        let results = EnqueueResults::from_iter([enqueued("a"), full(), enqueued("c"), full()]);

        let error = results.all_ok().unwrap_err();

        let words = "2 of 4 jobs were not enqueued, the first of them number 2: queue `thumbs` is full: try later, \
                     or raise its `max_length`";
        assert_eq!(chain(&error), words);
        assert_eq!(error.failed(), 2);
        assert_eq!(error.results().iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
        assert_eq!(error.into_results().len(), 4);
    }
}
