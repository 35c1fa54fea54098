//! The document as a whole.

use boon::{Compiler, Schemas};
use leveret::asyncapi::{document, document_in};
use serde_json::{Value, json};

const OFFICIAL: &str = include_str!("asyncapi-3.0.0.json");

pub(crate) fn shop() -> Value {
    document("Shop", "1.2.3")
}

/// Panics with what the official schema says of a document that it does not allow.
fn validate(document: &Value) {
    let official: Value = serde_json::from_str(OFFICIAL).unwrap();
    let id = official["$id"].as_str().unwrap().to_owned();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource(&id, official).unwrap();
    let schema = compiler.compile(&id, &mut schemas).unwrap();

    if let Err(error) = schemas.validate(document, schema) {
        panic!("{error:#}\nin {document:#}");
    }
}

/// Every reference in `value`, as a JSON pointer.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(target) if key == "$ref" => found.push(target.clone()),
                    value => references(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn document_is_what_the_official_schema_allows() {
    validate(&shop());
    validate(&document_in("shop", "Shop", "1").unwrap());
}

#[test]
#[should_panic(expected = "additionalProperties 'adress' not allowed")]
fn official_schema_refuses_what_it_does_not_know() {
    let mut document = shop();
    document["channels"]["shop.parcels"]["adress"] = "shop.parcels".into();

    validate(&document);
}

#[test]
fn every_reference_points_at_something() {
    let document = shop();
    let mut found = Vec::new();
    references(&document, &mut found);

    assert!(found.len() > 20, "{found:?}");
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} points at nothing");
    }
}

#[test]
fn document_is_the_same_each_time() {
    assert_eq!(shop().to_string(), shop().to_string());
}

#[test]
fn queue_is_a_channel_with_all_that_another_program_must_declare() {
    let document = shop();
    let channel = &document["channels"]["shop.parcels"];

    assert_eq!(channel["address"], "shop.parcels");
    let amqp = &channel["bindings"]["amqp"];
    assert_eq!(amqp["is"], "queue");
    assert_eq!(amqp["queue"]["name"], "shop.parcels");
    assert_eq!(
        amqp["x-arguments"],
        json!({
            "x-queue-type": "quorum",
            "x-delivery-limit": 100,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "shop.dlx",
            "x-dead-letter-routing-key": "shop.parcels",
            "x-dead-letter-strategy": "at-least-once",
            "x-message-ttl": 3_600_000,
        })
    );
    let messages: Vec<_> = channel["messages"].as_object().unwrap().keys().collect();
    assert_eq!(messages, ["ship", "weigh_20_parcel_2f_now"]);
}

#[test]
fn dead_letters_are_a_channel_of_the_same_messages() {
    let document = shop();
    let channels = &document["channels"];

    assert_eq!(channels["shop.parcels.dead"]["messages"], channels["shop.parcels"]["messages"]);
    assert!(channels.get("shop.tickets.urgent.dead").is_none());
}

#[test]
fn queue_that_is_not_ours_to_declare_says_no_arguments() {
    let document = shop();

    assert_eq!(document["channels"]["archive"]["bindings"]["amqp"].get("x-arguments"), None);
    assert_eq!(document["channels"]["attic"]["address"], "attic");
}

#[test]
fn namespace_names_the_exchange_of_dead_letters() {
    let exchange = |document: &Value| {
        document["channels"]["shop.orders.mail"]["bindings"]["amqp"]["x-arguments"]["x-dead-letter-exchange"]
            .clone()
    };

    assert_eq!(exchange(&shop()), "leveret.dlx");
    assert_eq!(exchange(&document_in("shop", "Shop", "1").unwrap()), "shop.dlx");
    assert!(document_in("amq.shop", "Shop", "1").is_err());
}

#[test]
fn task_is_enqueued_and_run() {
    let document = shop();
    let (enqueue, run) = (&document["operations"]["enqueue.ship"], &document["operations"]["run.ship"]);

    assert_eq!((&enqueue["action"], &run["action"]), (&json!("send"), &json!("receive")));
    assert_eq!(enqueue["messages"], json!([{ "$ref": "#/channels/shop.parcels/messages/ship" }]));
    assert_eq!(enqueue["bindings"]["amqp"]["priority"], 3);
    assert_eq!(enqueue["summary"], "Ships an order.");
    assert_eq!(enqueue["description"], "Ships an order.\n\nParcels above 30 kg go by another carrier.");
}

#[test]
fn message_says_how_it_is_written_and_in_which_version() {
    let document = shop();
    let messages = &document["components"]["messages"];

    assert_eq!(messages["ship"]["contentType"], "application/json");
    assert_eq!(messages["ship"].get("headers"), None);
    let weigh = &messages["weigh_20_parcel_2f_now"];
    assert_eq!(weigh["name"], "weigh parcel/now");
    assert_eq!(weigh["contentType"], "application/msgpack");
    assert_eq!(weigh["bindings"]["amqp"]["messageType"], "weigh parcel/now");
    assert_eq!(weigh["headers"]["properties"]["q-version"]["const"], 2);
}

#[test]
fn call_is_answered_with_a_result_or_a_failure() {
    let document = shop();
    let reply = &document["operations"]["run.ship"]["reply"];

    assert_eq!(reply["channel"]["$ref"], "#/channels/ship.reply");
    assert_eq!(reply["messages"][0]["$ref"], "#/channels/ship.reply/messages/ship.reply");
    assert_eq!(reply["messages"][1]["$ref"], "#/channels/ship.reply/messages/failure");
    let payload = &document["components"]["messages"]["ship.reply"]["payload"];
    assert_eq!(payload["$ref"], "#/components/schemas/Receipt");
    // What returns nothing is seldom called.
    assert_eq!(document["operations"]["run.weigh_20_parcel_2f_now"].get("reply"), None);
}

#[test]
fn event_goes_to_its_exchange_with_a_key_from_its_fields() {
    let document = shop();
    let channel = &document["channels"]["shop.orders.order.region.type.placed"];

    assert_eq!(channel["address"], "order.{region}.{type}.placed");
    // One field is in the body under another name.
    assert_eq!(
        channel["parameters"],
        json!({ "region": { "location": "$message.payload#/region" }, "type": {} })
    );
    assert_eq!(channel["bindings"]["amqp"]["exchange"]["type"], "topic");
    assert_eq!(document["operations"]["publish.OrderPlaced"]["action"], "send");
    assert_eq!(document["channels"]["shop.vans"]["address"], Value::Null);
    assert_eq!(
        document["components"]["messages"]["ticket"]["headers"]["required"],
        json!(["region", "urgent"])
    );
}

#[test]
fn subscriber_receives_its_event_by_its_bindings() {
    let document = shop();

    let receive = &document["operations"]["receive.mail"];
    assert_eq!(receive["action"], "receive");
    assert_eq!(receive["messages"][0]["$ref"], "#/channels/shop.orders.mail/messages/OrderPlaced");
    assert_eq!(
        document["channels"]["shop.orders.mail"]["x-bindings"],
        json!([
            { "exchange": "shop.orders", "routingKey": "order.europe.#" },
            { "exchange": "shop.orders", "routingKey": "order.africa.*.*" },
        ])
    );
    assert_eq!(
        document["channels"]["shop.tickets.urgent"]["x-bindings"][0]["arguments"],
        json!({ "x-match": "any", "urgent": true, "region": "europe" })
    );
    // A message as it is has no schema.
    assert_eq!(document["components"]["messages"]["archive"].get("payload"), None);
}

#[test]
fn task_tells_its_former_names_and_that_it_never_replies() {
    let document = shop();

    let message = &document["components"]["messages"]["send_bill"];
    assert_eq!(message["x-aliases"], json!(["bill", "shop.bill"]));
    assert_eq!(message["bindings"]["amqp"]["messageType"], "send_bill");
    assert_eq!(document["operations"]["enqueue.send_bill"].get("reply"), None);
    assert_eq!(document["components"]["messages"]["ship"].get("x-aliases"), None);
}

#[test]
fn queue_that_others_send_to_by_its_name_has_no_bindings() {
    let document = shop();

    assert_eq!(document["channels"]["imports"].get("x-bindings"), None);
    assert_eq!(
        document["operations"]["receive.import"]["messages"][0]["$ref"],
        "#/channels/imports/messages/import"
    );
}
