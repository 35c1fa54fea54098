//! A unit test as one would write it: no server, and a clock that stands still.

use example_tasks::{Mailer, SendWelcome, sign_up};
use leveret::testing::TestQueue;

#[tokio::test]
async fn signing_up_sends_a_welcome() {
    let queue = TestQueue::new().state(Mailer { from: "shop@example.com".into() });

    sign_up(queue.client(), "ada@example.com", "Ada").await.unwrap();

    queue.assert_enqueued::<SendWelcome>(|job| job.to == "ada@example.com");
    assert!(queue.drain().await.iter().all(|outcome| outcome.is_success()));
}
