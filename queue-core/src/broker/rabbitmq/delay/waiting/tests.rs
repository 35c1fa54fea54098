use super::*;

const HOUR: i64 = 3_600_000;

fn namespace() -> Namespace {
    Namespace::default()
}

/// A machine whose clock is right, or not; the server's is at `server`.
fn now(wall: i64, server: Option<i64>) -> Now {
    let server = server.map(|at| Reading { earliest: at - 10, latest: at + 10 });
    Now { wall: UNIX_EPOCH + Duration::from_millis(wall as u64), server }
}

fn secs(secs: f64) -> Duration {
    Duration::from_secs_f64(secs)
}

/// It expires on the rung, at that time of the server's clock.
fn expired(mut envelope: Envelope, rung: u32, at: i64) -> Envelope {
    let death = Headers::from([
        ("queue", HeaderValue::from(&*namespace().rung(rung))),
        ("time", HeaderValue::Timestamp((at / 1000) as u64)),
    ]);
    envelope.headers.insert("x-death", HeaderValue::List(vec![HeaderValue::Table(death)]));
    envelope
}

/// What is left after the first rung, which a job of `delay` leaves after `took`; and the rung.
fn left_after(delay: Duration, took: i64, enqueuer: Now, router: Now) -> (u32, Duration) {
    let (sent, queue) =
        Waiting::new("emails".into(), delay, enqueuer).write(Envelope::new("{}"), &namespace(), enqueuer);
    let rung = (0..Namespace::RUNGS).find(|rung| namespace().rung(*rung) == queue).unwrap();
    let (_, waiting) = Waiting::read(&expired(sent, rung, 10 * HOUR + took), &namespace(), router).unwrap();
    (rung, waiting.left)
}

#[test]
fn delayed_job_comes_out_as_it_went_in() {
    let mut job = Envelope::new("{}");
    job.priority = Some(3);
    job.attempt = 2;
    job.headers.insert("tenant", "blue");
    let at = now(HOUR, None);

    let (waiting, queue) = Waiting::new("emails".into(), secs(0.05), at).write(job.clone(), &namespace(), at);
    let (back, wait) = Waiting::read(&waiting, &namespace(), at).unwrap();

    assert_eq!((waiting.priority, queue), (None, namespace().due()));
    assert_eq!(format!("{back:?}"), format!("{job:?}"));
    assert_eq!((&*wait.target, wait.left), ("emails", secs(0.05)));
}

#[test]
fn job_takes_the_highest_rung_that_is_not_too_long() {
    let at = now(HOUR, None);
    let rung = |left| Waiting::new("q".into(), left, at).write(Envelope::new("{}"), &namespace(), at).1;

    assert_eq!(rung(secs(0.124)), namespace().due());
    assert_eq!(rung(secs(0.125)), namespace().rung(0));
    assert_eq!(rung(secs(1.1)), namespace().rung(3));
    assert_eq!(rung(Duration::MAX), namespace().rung(20));
}

#[test]
fn rung_counts_whatever_the_clocks_say() {
    for (enqueuer, router) in [(0, 0), (HOUR, 0), (0, HOUR), (HOUR, -HOUR)] {
        let clocks = (now(10 * HOUR + enqueuer, None), now(10 * HOUR + 4_000 + router, None));

        assert_eq!(left_after(secs(7.9), 4_000, clocks.0, clocks.1), (5, secs(3.9)));
    }
}

#[test]
fn server_clock_says_what_more_has_gone_by() {
    let (wrong, known) = (3 * HOUR, Some(10 * HOUR));
    let enqueuer = now(wrong, known);
    let later = |after: i64| now(wrong, Some(10 * HOUR + after));

    // The server was down while the job was on its rung.
    assert_eq!(left_after(secs(7.9), 60_000, enqueuer, later(60_000)).1, Duration::ZERO);
    assert_eq!(left_after(secs(7.9), 60_000, enqueuer, now(wrong, None)).1, Duration::ZERO);
    // No worker was there, and it has been in `due` since.
    assert_eq!(left_after(secs(7.9), 4_000, enqueuer, later(60_000)).1, Duration::ZERO);
    // Also where its enqueuer did not know the server's clock: it left its rung within that second.
    assert_eq!(left_after(secs(7.9), 4_000, now(wrong, None), later(60_000)).1, Duration::ZERO);
    // Never early: the time is known to 10 ms on either side, and it is not before the second in which the job left its rung.
    assert_eq!(left_after(secs(7.9), 5_005, enqueuer, later(5_005)).1, secs(2.91));
    assert_eq!(left_after(secs(7.9), 5_020, enqueuer, later(5_020)).1, secs(2.9));
    assert_eq!(left_after(secs(7.9), 4_001, enqueuer, later(4_001)).1, secs(3.9));
}

#[test]
fn what_older_versions_and_other_programs_send_goes_by_its_eta() {
    let mut job = Envelope::new("{}");
    job.headers.insert(header::TARGET, "emails");
    job.headers.insert(header::ETA, 10 * HOUR + 5_000);
    let left = |job: &Envelope, now| Waiting::read(job, &namespace(), now).unwrap().1.left;

    assert_eq!(left(&job, now(10 * HOUR, None)), secs(5.0));
    assert_eq!(left(&job, now(10 * HOUR + 6_000, None)), Duration::ZERO);
    // The server's clock rather than that of one of many workers.
    assert_eq!(left(&job, now(3 * HOUR, Some(10 * HOUR))), secs(5.01));
    job.headers.remove(header::ETA);
    assert_eq!(left(&job, now(10 * HOUR, None)), Duration::ZERO);
}

#[test]
fn what_an_older_version_has_passed_on_goes_by_its_eta() {
    let at = now(10 * HOUR, None);
    let (sent, _) = Waiting::new("emails".into(), secs(7.9), at).write(Envelope::new("{}"), &namespace(), at);

    // It was written for rung 5.
    let (_, waiting) =
        Waiting::read(&expired(sent, 4, 10 * HOUR + 6_000), &namespace(), now(10 * HOUR + 6_000, None))
            .unwrap();

    assert!((secs(1.9)..secs(1.902)).contains(&waiting.left), "{waiting:?}");
}

#[test]
fn wait_for_a_queue_that_is_missing_adds_up() {
    let at = now(HOUR, None);
    let waiting = Waiting { missing: secs(62.0), ..Waiting::new("emails".into(), secs(0.1), at) };

    let (sent, _) = waiting.write(Envelope::new("{}"), &namespace(), at);
    let (job, back) = Waiting::read(&sent, &namespace(), at).unwrap();

    assert_eq!(back.missing, secs(62.0));
    assert_eq!(job.headers.iter().count(), 0);
}

#[test]
fn message_without_a_target_is_no_delayed_job_and_nonsense_does_no_harm() {
    let at = now(HOUR, Some(HOUR));
    assert!(Waiting::read(&Envelope::new("{}"), &namespace(), at).is_none());
    let mut job = Envelope::new("{}");
    job.headers.insert(header::TARGET, "emails");
    for wait in [
        HeaderValue::from("soon"),
        HeaderValue::Table(Headers::from([
            (LEFT, HeaderValue::Int(i64::MIN)),
            (UNTIL, HeaderValue::Int(i64::MAX)),
        ])),
        HeaderValue::Table(Headers::from([
            (LEFT, HeaderValue::Int(-7)),
            (UNTIL, HeaderValue::Int(i64::MIN)),
        ])),
    ] {
        job.headers.insert(header::WAIT, wait);
        job.headers.insert(header::MISSING, i64::MIN);
        job.headers.insert(header::ETA, i64::MIN);

        let (_, waiting) = Waiting::read(&job, &namespace(), at).unwrap();

        assert_eq!((waiting.left, waiting.missing), (Duration::ZERO, Duration::ZERO));
    }
}
