//! What they refuse on our queues.

use std::time::{Duration, SystemTime};

use leveret::task;
use serde_json::json;

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers =
    Leftovers { queues: &["interop.refused", "interop.refused.dead"], exchanges: &["interop.refused.dlx"] };

with_each_client!(what_they_refuse_is_a_dead_letter_with_its_death, what_they_refuse_can_be_replayed,);

#[task(queue = "interop.refused", dlx = "interop.refused.dlx")]
async fn refused(seen: &Seen, number: u32) {
    seen.note(json!(number));
}

async fn what_they_refuse_is_a_dead_letter_with_its_death(t: &Python) {
    t.declare::<Refused>().await;
    let id = t.client.enqueue(Refused { number: 7 }).await.unwrap();
    let start = SystemTime::now();

    t.run("reject", &["interop.refused"], []).await;
    t.until_ready("interop.refused.dead", 1).await;

    let letters = t.client.admin().dead_letters("interop.refused.dead", 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&letter.id, letter.task.as_deref()), (id.id(), Some("refused")));
    assert_eq!(
        (letter.queue.as_deref(), letter.kind.as_deref()),
        (Some("interop.refused"), Some("rejected"))
    );
    let failed_at = letter.failed_at.expect("its death has a time");
    // RabbitMQ counts whole seconds.
    assert!(failed_at + Duration::from_secs(2) > start, "{failed_at:?} is before {start:?}");
    assert_eq!(letter.payload, r#"{"number":7}"#);
    // And they read the same.
    let theirs = t.consume_one("interop.refused.dead").await;
    let death = &theirs["headers"]["x-death"][0];
    assert_eq!((&death["queue"], &death["reason"]), (&"interop.refused".into(), &"rejected".into()));
}

async fn what_they_refuse_can_be_replayed(t: &Python) {
    t.declare::<Refused>().await;
    t.client.enqueue(Refused { number: 7 }).await.unwrap();
    t.run("reject", &["interop.refused"], []).await;
    t.until_ready("interop.refused.dead", 1).await;

    let replayed = t.client.admin().replay("interop.refused.dead", 10, |_| true).await.unwrap();
    let (work, mut notes) = t.work::<Refused>();

    assert_eq!(replayed, 1);
    assert_eq!(notes.next().await, 7);
    work.stop().await;
    assert_eq!(t.client.admin().depth("interop.refused.dead").await.unwrap().ready, 0);
}
