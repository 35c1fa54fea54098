//! What subscribers get.

use std::sync::Arc;
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{
    Context, EventError, Outcome, Properties, RawMessage, TaskError, TaskResult, Worker, subscriber, task,
};
use queue_core::topology::{QueueDecl, Topology};

use crate::support::{AlarmRaised, Log, OrderPlaced, ParcelSent, TicketOpened, VanMoved};

#[subscriber(queue = "orders.mail")]
async fn mail_on_order(log: &Log, event: OrderPlaced) {
    log.note(format!("mail {}", event.order));
}

#[subscriber(queue = "orders.stock", exchange = "shop.orders", concurrency = 4)]
fn reserve_on_order(log: &Log, event: OrderPlaced) {
    log.note(format!("stock {}", event.order));
}

#[subscriber(
    queue = "parcels.europe",
    binding = "parcel.europe.*",
    binding = "parcel.africa.#",
    retries = 1,
    backoff = "1s"
)]
async fn watch_parcels(log: &Log, context: &Context, parcel: ParcelSent) -> Result<(), String> {
    log.note(format!("{} {} {}", context.attempt(), context.routing_key(), parcel.number));
    if parcel.number == 13 { Err("lost".to_owned()) } else { Ok(()) }
}

#[subscriber(queue = "tickets.urgent", binding(region = "europe", urgent = true))]
async fn answer_urgent(log: &Log, ticket: TicketOpened) {
    log.note(format!("urgent {}", ticket.text));
}

#[subscriber(queue = "tickets.any", binding(any, region = "asia", urgent = true))]
async fn answer_any(log: &Log, ticket: TicketOpened) {
    log.note(format!("any {}", ticket.text));
}

#[subscriber(queue = "archive", exchange = "amq.topic", kind = "topic", binding = "import.#")]
async fn archive(log: &Log, message: RawMessage) {
    let text = String::from_utf8_lossy(&message.body).into_owned();
    let (kind, of) = (message.kind.unwrap_or_default(), message.content_type.unwrap_or_default());
    log.note(format!("{} {kind} {of} {text} {:?}", message.routing_key, message.headers.get("tenant")));
}

#[subscriber(queue = "alarms.pager", binding = "red", binding = "amber")]
async fn page_on_alarm(log: &Log, alarm: AlarmRaised) {
    log.note(format!("pager {}", alarm.level));
}

fn test_queue() -> (TestQueue, Arc<Log>) {
    let log = Arc::new(Log::default());
    let queue = TestQueue::new()
        .task::<MailOnOrder>()
        .task::<ReserveOnOrder>()
        .task::<WatchParcels>()
        .task::<AnswerUrgent>()
        .task::<AnswerAny>()
        .task::<PageOnAlarm>()
        .task::<Archive>();
    (queue.shared(log.clone()), log)
}

#[tokio::test]
async fn each_subscriber_gets_its_own_copy() {
    let (queue, log) = test_queue();

    queue.client().publish(OrderPlaced { order: 7 }).must_route().await.unwrap();
    let outcomes = queue.drain().await;

    assert_eq!(outcomes.len(), 2);
    assert_eq!(log.sorted(), ["mail 7", "stock 7"]);
}

#[task(queue = "checkout")]
async fn place_order(context: &Context, order: u64) -> Result<(), EventError> {
    context.client().publish(OrderPlaced { order }).await.map(drop)
}

#[tokio::test]
async fn event_of_a_performed_job_is_for_the_subscribers() {
    let (queue, log) = test_queue();

    assert!(queue.perform(PlaceOrder { order: 3 }).await.is_success());
    queue.drain().await;

    assert_eq!(log.sorted(), ["mail 3", "stock 3"]);
}

/// What others would have declared, a test has nobody to declare.
#[tokio::test]
async fn subscriber_of_a_queue_that_others_declare_can_be_tested() {
    #[subscriber(
        queue = "theirs",
        exchange = "their.orders",
        kind = "topic",
        binding = "a.*",
        declare = "passive"
    )]
    async fn theirs(log: &Log, message: RawMessage) {
        log.note(message.routing_key);
    }
    let log = Arc::new(Log::default());
    let queue = TestQueue::new().task::<Theirs>().shared(log.clone());

    queue.client().publish_raw("their.orders", "a.b", "{}", Properties::new()).must_route().await.unwrap();
    queue.drain().await;

    assert_eq!(log.sorted(), ["a.b"]);
}

#[tokio::test]
async fn bindings_choose_by_words() {
    let (queue, log) = test_queue();

    for (number, region) in ["europe", "asia", "africa"].into_iter().enumerate() {
        let number = number as u64;
        queue.client().publish(ParcelSent { region: region.into(), number }).await.unwrap();
    }
    queue.drain().await;

    assert_eq!(log.sorted(), ["1 parcel.africa.sent 2", "1 parcel.europe.sent 0"]);
}

#[tokio::test]
async fn bindings_choose_by_the_whole_key() {
    let (queue, log) = test_queue();

    for level in ["red", "green", "amber", "redder"] {
        queue.client().publish(AlarmRaised { level: level.into() }).await.unwrap();
    }
    queue.drain().await;

    assert_eq!(log.sorted(), ["pager amber", "pager red"]);
}

#[tokio::test]
async fn bindings_choose_by_headers() {
    let (queue, log) = test_queue();

    for (region, urgent) in [("europe", true), ("europe", false), ("asia", false)] {
        let text = format!("{region} {urgent}");
        queue.client().publish(TicketOpened { region: region.into(), urgent, text }).await.unwrap();
    }
    queue.drain().await;

    assert_eq!(log.sorted(), ["any asia false", "any europe true", "urgent europe true"]);
}

#[tokio::test]
async fn failed_event_is_retried_in_its_queue_alone_and_keeps_its_key() {
    let (queue, log) = test_queue();

    queue.client().publish(ParcelSent { region: "europe".into(), number: 13 }).await.unwrap();
    assert!(!queue.drain().await[0].is_success());
    queue.advance(Duration::from_secs(1));
    assert!(!queue.drain().await[0].is_success());

    assert_eq!(log.sorted(), ["1 parcel.europe.sent 13", "2 parcel.europe.sent 13"]);
    let dead = queue.client().admin().dead_letters("parcels.europe.dead", 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].attempts, dead[0].error.as_deref()), (2, Some("lost")));
    assert_eq!(dead[0].queue.as_deref(), Some("parcels.europe"));
}

#[subscriber(queue = "parcels.later", binding = "parcel.#", retries = 0)]
async fn watch_later(log: &Log, context: &Context, _parcel: ParcelSent) -> TaskResult {
    log.note(format!("{} {} {}", context.attempt(), context.exchange(), context.routing_key()));
    if log.sorted().len() == 1 { Err(TaskError::snooze(Duration::from_secs(60)).into()) } else { Ok(()) }
}

/// It comes again by its queue alone.
#[tokio::test]
async fn snoozed_event_is_the_same_event_when_it_comes_again() {
    let log = Arc::new(Log::default());
    let queue = TestQueue::new().task::<WatchLater>().shared(log.clone());

    queue.client().publish(ParcelSent { region: "europe".into(), number: 1 }).must_route().await.unwrap();
    assert_eq!(queue.drain().await, [Outcome::Snooze { after: Duration::from_secs(60) }]);
    queue.advance(Duration::from_secs(60));
    assert_eq!(queue.drain().await, [Outcome::Success]);

    assert_eq!(log.sorted(), ["1 shop.parcels parcel.europe.sent"; 2]);
}

#[subscriber(queue = "parcels.soon", binding = "parcel.*.sent", ttl = "1s")]
async fn watch_soon(log: &Log, context: &Context, _parcel: ParcelSent) {
    log.note(format!("{} {}", context.exchange(), context.routing_key()));
}

/// No worker has had it, so only the broker knows where it came from.
#[tokio::test]
async fn replayed_event_that_expired_comes_from_its_exchange_by_its_key() {
    let log = Arc::new(Log::default());
    let queue = TestQueue::new().task::<WatchSoon>().shared(log.clone());

    let client = queue.client();
    client.publish(ParcelSent { region: "europe".into(), number: 1 }).must_route().await.unwrap();
    queue.advance(Duration::from_secs(2));
    assert_eq!(client.admin().replay("parcels.soon.dead", 10, |_| true).await.unwrap(), 1);
    queue.drain().await;

    assert_eq!(log.sorted(), ["shop.parcels parcel.europe.sent"]);
}

/// A subscriber has no result to reply with, and a failed event must not be gone because somebody might have waited.
#[tokio::test]
async fn event_with_a_reply_address_is_no_call() {
    let (queue, log) = test_queue();
    let client = queue.client();
    client.declare(&Topology::new().queue(QueueDecl::new("replies"))).await.unwrap();
    let properties = Properties::new().reply_to("replies").correlation_id("7").header("tenant", "blue");

    let parcel = r#"{"region": "europe", "number": 13}"#;
    client.publish_raw("shop.parcels", "parcel.europe.sent", parcel, properties).await.unwrap();
    queue.drain().await;
    queue.advance(Duration::from_secs(1));
    queue.drain().await;

    assert_eq!(log.sorted(), ["1 parcel.europe.sent 13", "2 parcel.europe.sent 13"]);
    assert_eq!(client.admin().dead_letters("parcels.europe.dead", 10).await.unwrap().len(), 1);
    assert_eq!(client.admin().depth("replies").await.unwrap().ready, 0);
}

#[tokio::test]
async fn event_of_the_wrong_shape_is_a_dead_letter_that_says_why() {
    let (queue, log) = test_queue();

    for body in [r#"{"order":"seven"}"#, "[7]", "", "\u{fffd}"] {
        queue.client().publish_raw("shop.orders", "", body, Properties::new()).await.unwrap();
    }
    queue.drain().await;

    assert!(log.sorted().is_empty());
    let dead = queue.client().admin().dead_letters("orders.mail.dead", 10).await.unwrap();
    assert_eq!(dead.len(), 4);
    for letter in dead {
        let words = letter.error.unwrap();
        assert_eq!(letter.kind.as_deref(), Some("bad-message"));
        assert!(words.contains("`mail_on_order`") && words.contains("`OrderPlaced`"), "{words}");
    }
}

#[tokio::test]
async fn raw_message_comes_as_it_was_sent() {
    let (queue, log) = test_queue();

    let properties = Properties::new().kind("rows").content_type("text/csv").header("tenant", "blue");
    queue.client().publish_raw("amq.topic", "import.csv", "a,b", properties).must_route().await.unwrap();
    queue.drain().await;

    assert_eq!(log.sorted(), [r#"import.csv rows text/csv a,b Some(String("blue"))"#]);
}

#[tokio::test]
async fn subscriber_is_a_function_still() {
    let log = Log::default();

    mail_on_order(&log, OrderPlaced { order: 1 }).await;
    reserve_on_order(&log, OrderPlaced { order: 2 });

    assert_eq!(log.sorted(), ["mail 1", "stock 2"]);
}

#[tokio::test]
async fn declared_queue_keeps_events_for_a_service_that_comes_later() {
    let log = Arc::new(Log::default());
    let client = leveret::Client::connect("memory:").await.unwrap();
    let worker = Worker::new(&client).task::<MailOnOrder>().shared(log.clone()).signals(false);

    worker.declare().await.unwrap();
    client.publish(OrderPlaced { order: 1 }).must_route().await.unwrap();
    assert!(log.sorted().is_empty());
    worker.run_until_idle().await.unwrap();

    assert_eq!(log.sorted(), ["mail 1"]);
}

#[tokio::test]
async fn two_workers_of_one_service_share_its_queue() {
    let name = format!("memory:{}", leveret::JobId::new());
    let log = Arc::new(Log::default());
    let client = leveret::Client::connect(&name).await.unwrap();
    let worker = |client: &leveret::Client| {
        Worker::new(client).task::<MailOnOrder>().shared(log.clone()).signals(false)
    };
    let other = leveret::Client::connect(&name).await.unwrap();
    worker(&client).declare().await.unwrap();

    for order in 0..20 {
        client.publish(OrderPlaced { order }).must_route().await.unwrap();
    }
    let (one, two) = tokio::join!(worker(&client).run_until_idle(), worker(&other).run_until_idle());

    assert_eq!(one.unwrap().succeeded + two.unwrap().succeeded, 20);
    assert_eq!(log.sorted().len(), 20);
}

/// The same service before and after a binding was taken out of its code.
mod one_binding_less {
    use super::*;

    mod before {
        use super::*;

        #[subscriber(queue = "parcels.north", binding = "parcel.norway.*", binding = "parcel.sweden.*")]
        pub(super) async fn watch(_parcel: ParcelSent) {}
    }

    mod after {
        use super::*;

        #[subscriber(queue = "parcels.north", binding = "parcel.norway.*", bindings = "exact")]
        pub(super) async fn watch(_parcel: ParcelSent) {}
    }

    async fn declare<T: leveret::Runnable>(client: &leveret::Client) {
        Worker::new(client).task::<T>().signals(false).declare().await.unwrap();
    }

    #[tokio::test]
    async fn is_gone_from_the_queue_where_bindings_are_exact() {
        let client = leveret::Client::connect("memory:").await.unwrap();
        declare::<before::Watch>(&client).await;
        declare::<after::Watch>(&client).await;

        for region in ["norway", "sweden"] {
            client.publish(ParcelSent { region: region.into(), number: 1 }).await.unwrap();
        }

        assert_eq!(client.admin().depth("parcels.north").await.unwrap().ready, 1);
    }
}

mod one_queue {
    use super::*;

    #[subscriber(queue = "orders.shared")]
    async fn first(_event: OrderPlaced) {}

    #[subscriber(queue = "orders.shared")]
    async fn second(_event: OrderPlaced) {}

    #[tokio::test]
    async fn of_two_subscribers_is_refused_by_name() {
        let client = leveret::Client::connect("memory:").await.unwrap();

        let refused =
            Worker::new(&client).task::<First>().task::<Second>().signals(false).run().await.unwrap_err();

        let words = refused.to_string();
        assert!(
            words.contains("::first`") && words.contains("::second`") && words.contains("orders.shared"),
            "{words}"
        );
    }
}

#[subscriber(queue = "positions.map")]
async fn draw_van(log: &Log, event: VanMoved) {
    log.note(format!("van {}", event.van));
}

#[tokio::test]
async fn event_is_written_in_its_format_and_read_in_any() {
    let log = Arc::new(Log::default());
    let queue = TestQueue::new().task::<DrawVan>().shared(log.clone());
    let client = queue.client();

    client.publish(VanMoved { van: 1 }).must_route().await.unwrap();
    client.publish_raw("shop.positions", "", r#"{"van": 2}"#, Properties::new()).must_route().await.unwrap();
    let msgpack = Properties::new().content_type("application/msgpack");
    client.publish_raw("shop.positions", "", &b"\x81\xa3van\x03"[..], msgpack).must_route().await.unwrap();
    let outcomes = queue.drain().await;

    assert!(outcomes.iter().all(|outcome| outcome.is_success()), "{outcomes:?}");
    assert_eq!(log.sorted(), ["van 1", "van 2", "van 3"]);
}

#[tokio::test]
async fn event_of_unknown_content_type_is_a_dead_letter_that_names_it() {
    let queue = TestQueue::new().task::<DrawVan>().shared(Arc::new(Log::default()));
    let xml = Properties::new().content_type("application/xml");
    queue.client().publish_raw("shop.positions", "", "<van>1</van>", xml).await.unwrap();

    let outcomes = queue.drain().await;

    let Outcome::Failure(failure) = &outcomes[0].outcome else { panic!("{outcomes:?}") };
    assert_eq!(failure.reason.kind.as_str(), "bad-message");
    assert_eq!(
        failure.reason.message,
        "subscriber `draw_van` cannot read it: event `VanMoved`: its content type `application/xml` is not \
         understood; send `application/json`, `application/msgpack` or `application/cbor`, or leave it out for JSON"
    );
}
