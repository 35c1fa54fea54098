//! What an operator sees of a queue, page by page.

use std::time::{Duration, SystemTime};

use queue_core::admin::{Message, MessageState, Page, PageToken};
use queue_core::broker::Publish;
use queue_core::envelope::{Envelope, header};
use queue_core::error::ErrorKind;
use queue_core::settlement::Settlement;

use crate::operator::{bury, dead_queue, returns};
use crate::settle::{dead_letter, retry_in};
use crate::support::{Fixture, next, take, text, until_ready};

const HOUR: Duration = Duration::from_secs(3600);

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

/// All messages of a queue, seen by pages of `size`. Tokens go through text, as in a link.
async fn browse(t: &Fixture, queue: &str, size: usize) -> Vec<Message> {
    let (admin, mut page, mut all) = (t.client.admin(), Page::new(size), Vec::new());
    loop {
        let browsed = admin.browse(queue, page).await.unwrap();
        assert!(browsed.messages.len() <= size, "a page of {}", browsed.messages.len());
        all.extend(browsed.messages);
        let Some(next) = browsed.next else { return all };
        page = Page::new(size).after(next.to_string().parse().unwrap());
    }
}

pub(crate) async fn browse_shows_a_queue_page_by_page(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let shows_delayed = t.client.operator().unwrap().abilities().shows_delayed;
    let mut job = Envelope::new("a");
    job.task = Some("letters".to_owned());
    job.content_type = Some("text/plain".to_owned());
    job.priority = Some(5);
    job.enqueued_at = Some(SystemTime::UNIX_EPOCH + HOUR);
    job.headers.insert("tenant", "blue");
    let id = job.id.clone();
    t.broker.publish(Publish::to_queue(queue.name().clone(), job)).await.unwrap();
    t.send(queue.name(), ["b", "c", "d", "e"]).await;
    let due = SystemTime::now() + HOUR;
    if shows_delayed {
        // In another order than they are due.
        for (text, due) in [("late", due + HOUR), ("soon", due), ("later", due + 2 * HOUR)] {
            let mut delayed = Publish::to_queue(queue.name().clone(), Envelope::new(text));
            delayed.not_before = Some(due);
            t.broker.publish(delayed).await.unwrap();
        }
    }
    until_ready(&*t.broker, queue.name(), 5).await;

    // Few on RabbitMQ, where what has come back ten times is written anew, at the end of the queue.
    let is_free = t.client.operator().unwrap().abilities().looks_for_free;
    let sizes: &[usize] = if is_free { &[1, 2, 5, 100] } else { &[100] };
    for size in sizes {
        let messages = browse(t, queue.name(), *size).await;
        let mut expected = vec!["a", "b", "c", "d", "e"];
        expected.extend(["soon", "late", "later"].iter().filter(|_| shows_delayed));
        let returns: Vec<_> =
            messages.iter().map(|message| message.headers.get("x-delivery-count").cloned()).collect();
        assert_eq!(texts(&messages), expected, "by pages of {size}, returned {returns:?}");
        let first = &messages[0];
        assert_eq!((&first.id, first.task.as_deref()), (&id, Some("letters")));
        assert_eq!((first.state, first.attempt, first.replays), (MessageState::Ready, 1, 0));
        assert_eq!((first.priority, first.content_type.as_deref()), (Some(5), Some("text/plain")));
        assert_eq!(first.enqueued_at, Some(SystemTime::UNIX_EPOCH + HOUR));
        assert_eq!(first.headers.get("tenant"), Some(&"blue".into()));
        assert_eq!((&first.kind, &first.error, first.failed_at), (&None, &None, None));
        if shows_delayed {
            let MessageState::Delayed { due: shown } = messages[5].state else {
                panic!("it is delayed: {:?}", messages[5])
            };
            assert!(
                shown.duration_since(due).unwrap_or_else(|early| early.duration()) < Duration::from_millis(1)
            );
        }
    }
    // All are there for a consumer.
    let mut consumer = t.consume(queue.name()).await;
    assert_eq!(take(&mut consumer, 5).await, ["a", "b", "c", "d", "e"]);
}

/// Fewer pages than a quorum queue lets a message come back, see [`browse_shows_a_queue_page_by_page`].
pub(crate) async fn browse_by_small_pages_keeps_the_order(t: &Fixture) {
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        t.send(&queue, all).await;

        let by_one = texts(&browse(t, &queue, 1).await);

        assert_eq!(by_one, all, "queue {queue}");
        let consumed = take(&mut t.consume(&queue).await, all.len()).await;
        assert_eq!(consumed, all, "queue {queue}");
    }
}

/// Each step has a consumer of its own on RabbitMQ, and more than ten of them have names that sort in another way than
/// they count.
pub(crate) async fn walk_of_many_steps_keeps_the_order(t: &Fixture) {
    let all: Vec<_> = (0..25).map(|n| n.to_string()).collect();
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        t.send(&queue, all.iter().cloned()).await;
        let operator = t.client.operator().unwrap();

        for _ in 0..3 {
            let (mut walk, mut seen) = (operator.walk(&queue).await.unwrap(), Vec::new());
            loop {
                let found = walk.next(1).await.unwrap();
                if found.is_empty() {
                    break;
                }
                seen.extend(
                    found.iter().map(|found| String::from_utf8_lossy(&found.envelope.payload).into_owned()),
                );
            }
            walk.end().await;
            assert_eq!(seen, all, "queue {queue}");
        }
    }
}

/// RabbitMQ is asked for some more messages, when many are settled at once.
pub(crate) async fn what_is_left_when_much_was_taken_keeps_the_order(t: &Fixture) {
    let all: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        t.send(&queue, all.iter().cloned()).await;
        let operator = t.client.operator().unwrap();
        let mut walk = operator.walk(&queue).await.unwrap();
        let found = walk.next(50).await.unwrap();

        for found in found.into_iter().take(40) {
            walk.take(found).await.unwrap().unwrap().settle(Settlement::Ack).await.unwrap();
        }
        walk.end().await;

        assert_eq!(take(&mut t.consume(&queue).await, 20).await, all[40..], "queue {queue}");
    }
}

/// The page that is under way ends as if it had begun later, or earlier.
pub(crate) async fn queue_that_is_deleted_during_a_page_is_not_found(t: &Fixture) {
    let operator = t.client.operator().unwrap();
    for round in 0..4 {
        let queue =
            if round % 2 == 0 { t.quorum_queue("quorum").await } else { t.plain_queue("classic").await };
        t.send(&queue, (0..1000).map(|n| n.to_string())).await;
        let mut walk = operator.walk(&queue).await.unwrap();

        let (page, deleted) = tokio::join!(walk.next(1000), operator.delete(&queue));

        deleted.unwrap();
        let gone = match page {
            Ok(_) => walk.next(1).await.unwrap_err(),
            Err(gone) => gone,
        };
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:?}");
        assert!(gone.to_string().contains(&*queue), "{gone}");
        walk.end().await;
    }
}

pub(crate) async fn browse_shows_why_a_letter_is_dead(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;
    next(&mut consumer).await.settle(retry_in(Duration::ZERO)).await.unwrap();
    let retried = next(&mut consumer).await;
    assert_eq!(text(&retried), "job");
    retried.settle(Settlement::Release).await.unwrap();
    drop(consumer);
    until_ready(&*t.broker, queue.name(), 1).await;

    let retry = t.client.admin().browse(queue.name(), Page::new(1)).await.unwrap().messages.remove(0);
    assert_eq!((retry.state, retry.attempt), (MessageState::Ready, 2));
    assert!(retry.error.is_some() && retry.failed_at.is_some(), "{retry:?}");
    next(&mut t.work(&queue, 1).await).await.settle(dead_letter("no mailbox")).await.unwrap();
    let dead = queue.dead_queue().unwrap();
    until_ready(&*t.broker, &dead, 1).await;

    let letter = t.client.admin().browse(&dead, Page::new(10)).await.unwrap().messages.remove(0);

    assert_eq!((letter.id, letter.state, letter.attempt), (retry.id, MessageState::Dead, 2));
    assert_eq!(letter.failed_in.as_deref(), Some(&**queue.name()));
    assert_eq!(letter.error.as_deref(), Some("no mailbox"));
    assert_eq!(letter.headers.get(header::ERROR), Some(&"no mailbox".into()));
    assert!(letter.failed_at.is_some() && letter.kind.is_some());
}

pub(crate) async fn browse_costs_a_message_at_most_one_delivery(t: &Fixture) {
    let dead = dead_queue(t, 1_000_000).await;
    bury(t, &dead, "jobs", ["a", "b", "c", "d", "e"]).await;

    for _ in 0..3 {
        let browsed = t.client.admin().browse(&dead, Page::new(3)).await.unwrap();
        assert_eq!(texts(&browsed.messages), ["a", "b", "c"]);
    }

    let is_free = t.client.operator().unwrap().abilities().looks_for_free;
    for (at, (returns, tells_apart)) in returns(t, &dead, 5).await.into_iter().enumerate() {
        let most = if !is_free && !tells_apart && at < 3 { 3 } else { 0 };
        assert!(returns <= most, "message {at} has come back {returns} times");
    }
}

/// More than AMQP's prefetch can count, where that takes no time.
pub(crate) async fn browse_shows_any_number_of_messages(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let count = if t.client.operator().unwrap().abilities().looks_for_free { 66_000 } else { 3_000 };
    t.send(&queue, (0..count).map(|n| n.to_string())).await;

    let at_once = t.client.admin().browse(&queue, Page::new(count + 1)).await.unwrap();
    let letters = t.client.admin().dead_letters(&queue, usize::MAX).await.unwrap();

    assert!(
        at_once.messages.iter().enumerate().all(|(n, message)| *message.payload == *n.to_string().as_bytes())
    );
    assert_eq!((at_once.messages.len(), letters.len()), (count, count));
    assert!(at_once.next.is_none());
}

/// Where a message keeps its number. RabbitMQ counts from the head of the queue, so the page moves on with it.
pub(crate) async fn browse_goes_on_where_it_was_though_messages_came_and_went(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["a", "b", "c", "d", "e"]).await;
    let admin = t.client.admin();
    let first = admin.browse(&queue, Page::new(2)).await.unwrap();
    let mut consumer = t.consume(&queue).await;
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
    consumer.stop();
    drop(consumer);
    t.send(&queue, ["f"]).await;
    until_ready(&*t.broker, &queue, 5).await;

    let rest = admin.browse(&queue, Page::new(10).after(first.next.unwrap())).await.unwrap();

    let is_free = t.client.operator().unwrap().abilities().looks_for_free;
    let expected: &[&str] = if is_free { &["c", "d", "e", "f"] } else { &["d", "e", "f"] };
    assert_eq!(texts(&rest.messages), expected);
}

pub(crate) async fn page_of_another_queue_is_refused(t: &Fixture) {
    let (queue, other) = (t.plain_queue("jobs").await, t.plain_queue("other").await);
    t.send(&queue, ["a", "b"]).await;
    let admin = t.client.admin();
    let token: PageToken = admin.browse(&queue, Page::new(1)).await.unwrap().next.unwrap();

    let refused = admin.browse(&other, Page::new(1).after(token)).await.unwrap_err();

    assert_eq!(refused.kind(), ErrorKind::Config, "{refused:?}");
    let words = refused.to_string();
    assert!(words.contains(&*queue) && words.contains(&*other), "{words}");
}

pub(crate) async fn page_of_a_queue_that_was_deleted_is_not_found(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["a", "b"]).await;
    let admin = t.client.admin();
    let token = admin.browse(&queue, Page::new(1)).await.unwrap().next.unwrap();
    t.client.operator().unwrap().delete(&queue).await.unwrap();

    let gone = admin.browse(&queue, Page::new(1).after(token)).await.unwrap_err();

    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:?}");
    assert!(gone.to_string().contains(&*queue), "{gone}");
}
