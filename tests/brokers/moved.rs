//! A job is moved into another queue, or into its own anew ([`Settlement::Move`]): a copy takes its place, with headers of its mover.

use queue_core::broker::Returns;
use queue_core::envelope::{HeaderValue, Headers, header};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;

use crate::support::{Fixture, next, text, until_ready};

/// Notes one header, and takes another one out.
fn to(queue: &Name) -> Settlement {
    let mut headers = Headers::new();
    headers.insert(header::CRASHES, 2_i64);
    headers.insert("tenant", HeaderValue::Null);
    Settlement::Move { queue: queue.clone(), headers }
}

pub(crate) async fn moved_job_is_a_copy_with_the_headers_of_its_mover(t: &Fixture) {
    let (from, other) = (t.quorum_queue("from").await, t.plain_queue("other").await);
    for (from, into) in [(&from, &other), (&other, &other)] {
        t.send(from, ["job"]).await;
        let mut consumer = t.consume(from).await;
        let mut job = next(&mut consumer).await;
        let id = job.envelope.id.clone();
        job.envelope.headers.insert("tenant", "blue");
        job.envelope.headers.insert("color", "red");
        job.settle(to(into)).await.unwrap();
        // The copy is for the consumer that is there already, in its own queue.
        if from != into {
            consumer = t.consume(into).await;
        }

        let copy = next(&mut consumer).await;

        assert_eq!((&copy.envelope.id, text(&copy)), (&id, "job".to_owned()));
        assert_eq!((copy.envelope.attempt, copy.envelope.copy_number()), (1, 1));
        assert_eq!(
            (copy.redelivered, copy.returns),
            (true, Returns::Never),
            "it was held, and the copy was not"
        );
        let header = |name: &str| copy.envelope.headers.get(name).cloned();
        assert_eq!(header(header::CRASHES), Some(2_i64.into()));
        assert_eq!((header("tenant"), header("color")), (None, Some("red".into())));
        copy.settle(Settlement::Ack).await.unwrap();
        until_ready(&*t.broker, from, 0).await;
        until_ready(&*t.broker, into, 0).await;
    }
}
