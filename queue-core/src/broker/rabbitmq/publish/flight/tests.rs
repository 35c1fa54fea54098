use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot::{Receiver, Sender, channel, error::RecvError};

use super::*;

type Answer = Receiver<u32>;
type TestFlight = Flight<&'static str, Receiver<Answer>, Answer, RecvError>;

/// A flight, and the other ends of what it waits for.
struct Fixture {
    flight: TestFlight,
    wakes: Arc<Wakes>,
    heard: Vec<(&'static str, u32)>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        wakes.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What lapin's thread does with one publish.
struct Peer {
    writing: Option<Sender<Answer>>,
    answering: Sender<u32>,
    answer: Option<Answer>,
}

impl Peer {
    fn write(&mut self) {
        let answer = self.answer.take().expect("written once");
        self.writing.take().expect("written once").send(answer).expect("the flight waits");
    }

    fn answer(self, answer: u32) {
        self.answering.send(answer).expect("the flight waits");
    }
}

impl Fixture {
    fn new() -> Self {
        Self { flight: Flight::new(), wakes: Arc::default(), heard: Vec::new() }
    }

    fn send(&mut self, item: &'static str) -> Peer {
        let (writing, written) = channel();
        let (answering, answer) = channel();
        self.flight.send(item, written);
        Peer { writing: Some(writing), answering, answer: Some(answer) }
    }

    fn poll(&mut self) -> Result<(), RecvError> {
        let waker = waker_ref(&self.wakes);
        let heard = &mut self.heard;
        self.flight.poll(&mut Context::from_waker(&waker), |item, answer| heard.push((item, answer)))
    }

    fn poll_only(&mut self) -> Poll<()> {
        let waker = waker_ref(&self.wakes);
        let heard = &mut self.heard;
        self.flight.poll_only(&mut Context::from_waker(&waker), |item, answer| heard.push((item, answer)))
    }

    fn released(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.flight.release()).collect()
    }

    /// How often the owner was woken since it was last asked.
    fn wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn answers_count_in_the_order_of_sending() {
    let mut t = Fixture::new();
    let (mut a, mut b) = (t.send("a"), t.send("b"));
    a.write();
    b.write();
    t.poll().unwrap();

    b.answer(2);
    t.poll().unwrap();
    assert_eq!(t.released(), [""; 0]);
    a.answer(1);
    t.poll().unwrap();

    assert_eq!(t.released(), ["a", "b"]);
    assert_eq!(t.heard, [("b", 2), ("a", 1)]);
}

/// The answer to `b` may carry the message that came back for `a`. Whether `b` has been seen to be written by then, or
/// has ever been asked, is chance.
#[test]
fn nothing_is_released_before_all_that_was_completed_earlier_is_heard() {
    for (polled_when_sent, polled_when_written) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let mut t = Fixture::new();
        let (mut a, mut b) = (t.send("a"), t.send("b"));
        if polled_when_sent {
            t.poll().unwrap();
        }
        a.write();
        b.write();
        if polled_when_written {
            t.poll().unwrap();
        }

        b.answer(2);
        a.answer(1);
        t.poll().unwrap();

        assert!(t.heard.contains(&("b", 2)), "`a` would be released without its returned message");
        assert_eq!(t.released(), ["a", "b"]);
    }
}

#[test]
fn what_is_completed_while_others_are_heard_is_heard_too() {
    let mut t = Fixture::new();
    let (mut a, mut b, mut c) = (t.send("a"), t.send("b"), t.send("c"));
    a.write();
    b.write();
    c.write();
    t.poll().unwrap();
    b.answer(2);

    // In the middle of a poll `c` is completed, which carries the message that came back for `a`; then `a`.
    let mut rest = Some((c, a));
    let mut heard = Vec::new();
    let waker = waker_ref(&t.wakes);
    let polled = t.flight.poll(&mut Context::from_waker(&waker), |item, _| {
        heard.push(*item);
        if let Some((c, a)) = rest.take() {
            c.answer(3);
            a.answer(1);
        }
    });

    polled.unwrap();
    assert_eq!(heard, ["b", "c", "a"]);
}

#[test]
fn owner_is_woken_for_the_first_only() {
    let mut t = Fixture::new();
    let (mut a, mut b) = (t.send("a"), t.send("b"));
    t.poll().unwrap();

    a.write();
    assert_eq!(t.wakes(), 1);
    t.poll().unwrap();
    b.write();
    assert_eq!(t.wakes(), 0);
    t.poll().unwrap();
    b.answer(2);
    assert_eq!(t.wakes(), 0);
    a.answer(1);
    assert_eq!(t.wakes(), 1);
}

#[test]
fn owner_is_woken_for_the_one_that_has_become_the_first() {
    let mut t = Fixture::new();
    let (mut a, mut b, mut c) = (t.send("a"), t.send("b"), t.send("c"));
    a.write();
    b.write();
    t.poll().unwrap();
    a.answer(1);
    t.wakes();
    t.poll().unwrap();
    assert_eq!(t.released(), ["a"]);

    b.answer(2);
    assert_eq!(t.wakes(), 1);
    t.poll().unwrap();
    assert_eq!(t.released(), ["b"]);
    c.write();
    assert_eq!(t.wakes(), 1);
    t.poll().unwrap();
    c.answer(3);
    assert_eq!(t.wakes(), 1);
}

#[test]
fn only_one_is_released_without_its_owner() {
    let mut t = Fixture::new();
    let mut a = t.send("a");
    assert!(t.poll_only().is_pending());
    a.write();
    assert_eq!(t.wakes(), 1);
    assert!(t.poll_only().is_pending());
    a.answer(1);
    assert_eq!(t.wakes(), 1);

    assert!(t.poll_only().is_ready());

    assert_eq!(t.released(), ["a"]);
    assert_eq!(t.heard, [("a", 1)]);
}

#[test]
fn only_one_is_taken_over_by_the_owner_at_any_stage() {
    for is_written in [false, true] {
        let mut t = Fixture::new();
        let mut a = t.send("a");
        let mut b = None;
        if is_written {
            a.write();
        }
        assert!(t.poll_only().is_pending());

        t.poll().unwrap();
        b.get_or_insert(t.send("b")).write();
        if !is_written {
            a.write();
        }
        t.poll().unwrap();
        t.wakes();
        a.answer(1);

        assert_eq!(t.wakes(), 1, "is written: {is_written}");
        t.poll().unwrap();
        assert_eq!(t.released(), ["a"]);
    }
}

#[test]
fn error_is_told_to_the_owner_also_when_somebody_else_saw_it() {
    let mut t = Fixture::new();
    t.poll().unwrap();
    let a = t.send("a");
    assert!(t.poll_only().is_pending());

    drop(a);
    t.wakes();
    assert!(t.poll_only().is_pending());

    assert_eq!(t.wakes(), 1);
    assert!(t.poll().is_err());
    assert_eq!(t.flight.into_items().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn what_was_answered_before_an_error_is_heard_nevertheless() {
    let mut t = Fixture::new();
    let (mut a, mut b, mut c) = (t.send("a"), t.send("b"), t.send("c"));
    let d = t.send("d");
    a.write();
    b.write();
    t.poll().unwrap();
    b.answer(2);
    c.write();
    c.answer(3);
    drop((a, d));
    assert!(t.poll().is_err());

    // Also once more, when what has failed must not be polled.
    for _ in 0..2 {
        let heard = &mut t.heard;
        t.flight.ask_all(|item, answer| heard.push((item, answer)));
    }

    t.heard.sort_unstable();
    assert_eq!(t.heard, [("b", 2), ("c", 3)]);
    assert_eq!(t.flight.into_items().count(), 4);
}
