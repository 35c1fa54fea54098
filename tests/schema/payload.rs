//! The schemas of payloads: what serde reads fits them, and what it refuses does not.

use boon::{Compiler, Schemas};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::document::shop;
use crate::program::{OrderPlaced, Ship, TicketOpened, VanMoved};

/// Whether a payload fits its message's schema, and whether serde reads it: the two agree.
pub(crate) fn fits<T: DeserializeOwned>(message: &str, payload: &Value) -> bool {
    let document = shop();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.set_default_draft(boon::Draft::V7);
    compiler.add_resource("http://shop/document", document).unwrap();
    let pointer = format!("http://shop/document#/components/messages/{message}/payload");
    let schema = compiler.compile(&pointer, &mut schemas).unwrap();

    let by_schema = schemas.validate(payload, schema).is_ok();
    let by_serde = serde_json::from_value::<T>(payload.clone());

    assert_eq!(by_schema, by_serde.is_ok(), "{payload}: {:?}", by_serde.err());
    by_schema
}

/// `payload` with one key changed, or without it.
fn but(payload: &Value, key: &str, value: Option<Value>) -> Value {
    let mut payload = payload.clone();
    match value {
        Some(value) => payload[key] = value,
        None => drop(payload.as_object_mut().unwrap().remove(key)),
    }
    payload
}

#[test]
fn schema_of_a_task_is_what_serde_reads() {
    let address = json!({ "street": "Main St", "zipCode": "1" });
    let job = json!({
        "order": 7,
        "to": address,
        "giftNote": "hi",
        "fragile": true,
        "labels": { "a": [address] },
        "opaque": 1,
        "maybe_opaque": 2,
    });
    let fits = |payload: &Value| fits::<Ship>("ship", payload);

    assert!(fits(&job));
    for may_be_missing in ["giftNote", "fragile", "maybe_opaque"] {
        assert!(fits(&but(&job, may_be_missing, None)), "{may_be_missing}");
    }
    assert!(fits(&but(&job, "giftNote", Some(Value::Null))));
    assert!(fits(&but(&job, "unknown", Some(json!([])))));
    for must_be_there in ["order", "to", "labels", "opaque"] {
        assert!(!fits(&but(&job, must_be_there, None)), "{must_be_there}");
    }
    assert!(!fits(&but(&job, "order", Some(json!("seven")))));
    assert!(!fits(&but(&job, "to", Some(json!({ "street": "Main St", "zip_code": "1" })))));
    assert!(!fits(&json!([7])));
}

#[test]
fn schema_of_an_event_is_what_serde_reads() {
    let address = json!({ "street": "Main St", "zipCode": "1" });
    let event = json!({ "region": "europe", "kind": "book", "ship-to": address, "opaque": 1 });
    let fits = |payload: &Value| fits::<OrderPlaced>("OrderPlaced", payload);

    assert!(fits(&event));
    assert!(!fits(&but(&event, "ship-to", None)));
    assert!(!fits(&but(&event, "kind", Some(json!(1)))));

    let ticket = json!({ "region": "europe", "urgent": true, "wait": 5 });
    assert!(self::fits::<TicketOpened>("ticket", &ticket));
    assert!(!self::fits::<TicketOpened>("ticket", &but(&ticket, "wait", None)));
}

#[test]
fn event_that_describes_itself_is_described_so() {
    let document = shop();

    assert!(fits::<VanMoved>("VanMoved", &json!({ "van": 7 })));
    assert_eq!(document["components"]["schemas"]["VanMoved"]["properties"]["van"]["maximum"], 99);
}

#[test]
fn parameter_is_described_by_its_documentation() {
    let document = shop();
    let properties = &document["components"]["messages"]["ship"]["payload"]["properties"];

    assert_eq!(properties["order"]["description"], "The order's number.");
}

#[test]
fn type_without_a_schema_can_be_anything_and_says_so() {
    let document = shop();
    let properties = |message: &str| &document["components"]["messages"][message]["payload"]["properties"];

    let comment = "`schema::program::Opaque` does not implement `schemars::JsonSchema`";
    assert_eq!(properties("ship")["opaque"]["$comment"], comment);
    // Written by a function of its own: nobody knows what.
    assert_eq!(properties("ticket")["wait"], json!(true));
}

#[test]
fn schema_that_messages_share_stands_there_once() {
    let document = shop();
    let schemas: Vec<_> = document["components"]["schemas"].as_object().unwrap().keys().collect();

    assert_eq!(schemas, ["Address", "Receipt", "Ticks", "VanMoved"]);
}
