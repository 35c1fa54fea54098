//! Options of serde that name what is the struct's own: its `Default`, its methods, the type it is read as. They compile
//! with the schemas as without them, and the document says as much of them as it can know.

use std::sync::atomic::{AtomicU32, Ordering};

use leveret::{Event, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::document::shop;
use crate::payload::fits;

/// Read with its own defaults.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.stock", kind = "topic", key = "stock.{shelf}")]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct StockCounted {
    shelf: String,
    in_stock: u32,
    #[serde(skip_serializing_if = "Self::is_default")]
    counter: u32,
}

impl StockCounted {
    fn is_default(counter: &u32) -> bool {
        *counter == Self::default().counter
    }
}

impl Default for StockCounted {
    fn default() -> Self {
        Self { shelf: "A1".to_owned(), in_stock: 0, counter: 7 }
    }
}

/// Knows nothing of schemas.
#[derive(Serialize, Deserialize)]
struct Scales(u32);

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(exchange = "shop.scales", kind = "fanout")]
#[serde(try_from = "Scales", into = "Scales")]
struct Weighed {
    grams: u32,
}

impl TryFrom<Scales> for Weighed {
    type Error = String;

    fn try_from(Scales(grams): Scales) -> Result<Self, String> {
        if grams > 0 { Ok(Self { grams }) } else { Err("nothing lies on it".to_owned()) }
    }
}

impl From<Weighed> for Scales {
    fn from(Weighed { grams }: Weighed) -> Self {
        Self(grams)
    }
}

#[derive(Deserialize, JsonSchema)]
struct Ticks {
    ticks: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.clock", kind = "fanout")]
#[serde(from = "Ticks")]
struct ClockTicked {
    hours: u64,
}

impl From<Ticks> for ClockTicked {
    fn from(Ticks { ticks }: Ticks) -> Self {
        Self { hours: ticks / 3600 }
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.shelves", kind = "fanout")]
struct ShelfMoved {
    with: Vec<Self>,
}

/// Another one each time, like a UUID.
fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.rang", kind = "fanout")]
struct BellRang {
    #[serde(default = "next")]
    number: u32,
    #[serde(default)]
    twice: bool,
}

#[task(queue = "shop.bell")]
async fn answer_bell(
    #[serde(default = "next")] number: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")] visitors: Vec<String>,
) {
    drop((number, visitors));
}

#[test]
fn fields_of_an_event_with_defaults_may_be_missing() {
    let fits = |payload| fits::<StockCounted>("StockCounted", &payload);

    assert!(fits(json!({})));
    assert!(fits(json!({ "shelf": "B2", "inStock": 3, "counter": 1 })));
    assert!(!fits(json!({ "inStock": "three" })));
    assert!(!fits(json!({ "in_stock": 3 })));
}

#[test]
fn event_that_is_read_as_another_type_is_described_by_that_type() {
    let document = shop();
    let payload = |event: &str| &document["components"]["messages"][event]["payload"];

    assert!(fits::<ClockTicked>("ClockTicked", &json!({ "ticks": 7200 })));
    assert!(!fits::<ClockTicked>("ClockTicked", &json!({ "hours": 2 })));
    assert_eq!(
        payload("Weighed")["$comment"],
        "`schema::options::Scales` does not implement `schemars::JsonSchema`"
    );
    assert!(fits::<Weighed>("Weighed", &json!(500)));
}

#[test]
fn default_that_a_function_makes_is_not_stated() {
    let document = shop();
    let properties = |message: &str| &document["components"]["messages"][message]["payload"]["properties"];

    let before = next();
    for message in ["BellRang", "answer_bell"] {
        assert_eq!(properties(message)["number"].get("default"), None);
    }
    assert_eq!(properties("BellRang")["twice"]["default"], false);
    assert_eq!(shop(), document);
    assert_eq!(next(), before + 1, "the function was called for a description");
    assert!(fits::<BellRang>("BellRang", &json!({})));
    assert!(fits::<AnswerBell>("answer_bell", &json!({})));
}

#[test]
fn event_that_contains_itself_has_a_description_that_ends() {
    let document = shop();
    let shelf = &document["components"]["messages"]["ShelfMoved"]["payload"]["properties"]["with"];

    let comment = shelf["$comment"].as_str().unwrap();
    assert!(comment.contains("ShelfMoved") && comment.contains("does not implement"), "{comment}");
}
