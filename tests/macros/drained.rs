//! The records of jobs that a test ran.

use std::fmt;
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{Context, Outcome, TaskError, TaskResult, task};

#[derive(Debug, PartialEq)]
enum MailError {
    Banned { address: String },
    Busy,
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for MailError {}

#[task(queue = "drained.mails", retries = 1, backoff = fixed("1s"), permanent(MailError::Banned { .. }))]
async fn send_mail(context: &Context, to: String) -> Result<(), MailError> {
    match to.as_str() {
        "banned" => Err(MailError::Banned { address: to }),
        "busy" if context.attempt() == 1 => Err(MailError::Busy),
        _ => Ok(()),
    }
}

#[task(queue = "drained.letters", retries = 0)]
async fn send_letter(to: String) -> TaskResult {
    match to.as_str() {
        "marked" => Err(TaskError::permanent(MailError::Busy).into()),
        "text" => Err("no paper".into()),
        _ => panic!("no stamp"),
    }
}

fn mail(to: &str) -> SendMail {
    SendMail { to: to.into() }
}

#[tokio::test]
async fn drained_job_says_which_it_was() {
    let queue = TestQueue::new().task::<SendMail>().task::<SendLetter>();
    let id = queue.client().enqueue(mail("busy")).await.unwrap();
    queue.client().enqueue(SendLetter { to: "text".into() }).await.unwrap();

    let first = queue.drain().await;
    queue.advance(Duration::from_secs(1));
    let second = queue.drain().await;

    let mails: Vec<_> = first.iter().filter_map(|drained| drained.payload::<SendMail>()).collect();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, "busy");
    let of_mail = |drained: &&leveret::testing::JobOutcome| drained.job.task() == "send_mail";
    let job = &first.iter().find(of_mail).unwrap().job;
    assert_eq!((&job.id, job.queue(), job.attempt), (id.id(), "drained.mails", 1));
    assert_eq!((&second[0].job.id, second[0].job.attempt), (id.id(), 2));
    assert_eq!(second, [Outcome::Success]);
}

#[tokio::test]
async fn error_is_found_by_its_own_type() {
    let queue = TestQueue::new().task::<SendMail>();
    queue.client().enqueue(mail("banned")).await.unwrap();

    let drained = queue.drain().await;
    let performed = queue.perform(mail("busy")).await;

    assert_eq!(drained[0].error(), Some(&MailError::Banned { address: "banned".into() }));
    assert_eq!(performed.error(), Some(&MailError::Busy));
    assert_eq!(queue.perform(mail("fine")).await.error::<MailError>(), None);
}

#[tokio::test]
async fn error_is_found_behind_a_box_and_a_mark_and_not_where_there_is_none() {
    let queue = TestQueue::new().task::<SendLetter>();
    let error = async |to: &str| queue.perform(SendLetter { to: to.into() }).await;

    assert_eq!(error("marked").await.error(), Some(&MailError::Busy));
    assert!(error("marked").await.error::<TaskError>().is_some());
    assert_eq!(error("text").await.error::<MailError>(), None);
    assert_eq!(error("panic").await.error::<MailError>(), None);
}

/// A failed assertion prints it.
#[tokio::test]
async fn drained_job_shows_its_payload() {
    let queue = TestQueue::new().task::<SendMail>();
    queue.client().enqueue(mail("ada")).await.unwrap();

    let shown = format!("{:?}", queue.drain().await);

    assert!(shown.contains(r#"{\"to\":\"ada\"}"#) && shown.contains("send_mail"), "{shown}");
}
