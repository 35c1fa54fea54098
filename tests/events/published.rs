//! Assertions about the events that the code under test has published.

use std::panic::{AssertUnwindSafe, catch_unwind};

use leveret::testing::TestQueue;
use leveret::{Context, EventError, Properties, task};

use crate::support::{OrderPlaced, ParcelSent, VanMoved};

#[task(queue = "checkout.published")]
async fn check_out(context: &Context, order: u64) -> Result<(), EventError> {
    context.client().publish(OrderPlaced { order }).await.map(drop)
}

fn words(assertion: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion held");
    *panic.downcast::<String>().expect("a panic with words")
}

fn parcel(number: u64) -> ParcelSent {
    ParcelSent { region: "europe".into(), number }
}

#[tokio::test]
async fn event_is_found_whether_or_not_anybody_subscribed() {
    let queue = TestQueue::new().task::<CheckOut>();
    queue.refute_published::<OrderPlaced>(|_| true);

    queue.client().publish(OrderPlaced { order: 6 }).await.unwrap();
    queue.client().publish(VanMoved { van: 3 }).await.unwrap();

    queue.assert_published::<OrderPlaced>(|event| event.order == 6);
    queue.assert_published::<VanMoved>(|event| event.van == 3);
    queue.refute_published::<OrderPlaced>(|event| event.order == 7);
}

#[tokio::test]
async fn event_of_a_handler_is_found_and_those_of_one_type_keep_their_order() {
    let queue = TestQueue::new().task::<CheckOut>();
    queue.client().publish(OrderPlaced { order: 6 }).await.unwrap();
    queue.client().enqueue(CheckOut { order: 7 }).await.unwrap();

    assert!(queue.drain().await.iter().all(|outcome| outcome.is_success()));

    assert_eq!(queue.all_published::<OrderPlaced>(), [OrderPlaced { order: 6 }, OrderPlaced { order: 7 }]);
}

#[tokio::test]
async fn event_that_was_refused_was_not_published() {
    let queue = TestQueue::new().task::<CheckOut>();

    let refused = queue.client().publish(parcel(1)).must_route().await;

    assert!(refused.is_err());
    queue.refute_published::<ParcelSent>(|_| true);
}

#[tokio::test]
async fn failed_assertion_shows_what_was_published_instead() {
    let queue = TestQueue::new().task::<CheckOut>();
    assert_eq!(
        words(|| queue.assert_published::<OrderPlaced>(|_| true)),
        "no event `OrderPlaced` was published, nor any other"
    );
    queue.client().publish(parcel(2)).await.unwrap();
    queue.client().publish_raw("shop.parcels", "x", "raw", Properties::new()).await.unwrap();

    assert_eq!(
        words(|| queue.assert_published::<ParcelSent>(|parcel| parcel.number == 1)),
        "no such event `ParcelSent` was published, but:\n  \
         ParcelSent {\"region\":\"europe\",\"number\":2} to exchange `shop.parcels` with key `parcel.europe.sent`\n  \
         (no name) raw to exchange `shop.parcels` with key `x`"
    );
    assert_eq!(
        words(|| queue.refute_published::<ParcelSent>(|_| true)),
        "an event `ParcelSent` was published that should not be:\n  \
         ParcelSent {\"region\":\"europe\",\"number\":2} to exchange `shop.parcels` with key `parcel.europe.sent`"
    );
}
