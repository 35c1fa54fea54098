use std::sync::LazyLock;

use schemars::{JsonSchema, json_schema};
use serde_json::json;

use super::*;
use crate::topology::Name;

/// A type whose schema has a name that is no name of a component.
struct Pair;

impl JsonSchema for Pair {
    fn schema_name() -> Name {
        "Pair<a/b, ~>".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": { "next": generator.subschema_for::<Self>() } })
    }
}

fn queue() -> &'static QueueSpec {
    static QUEUE: LazyLock<QueueSpec> = LazyLock::new(|| QueueSpec::new("pairs/1").no_dlx());
    &QUEUE
}

fn options() -> &'static TaskOptions {
    static OPTIONS: LazyLock<TaskOptions> = LazyLock::new(TaskOptions::default);
    &OPTIONS
}

fn task(name: &'static str, is_run: bool) -> Description {
    Description::Task(TaskDescription {
        name,
        doc: "",
        queue,
        options,
        payload: |generator| generator.subschema_for::<Pair>(),
        reply: |generator| generator.subschema_for::<()>(),
        is_run,
    })
}

fn packed() -> &'static TaskOptions {
    static OPTIONS: LazyLock<TaskOptions> =
        LazyLock::new(|| TaskOptions { format: Format::MessagePack, ..TaskOptions::default() });
    &OPTIONS
}

fn build(descriptions: &[Description]) -> Value {
    document::build("Pairs", "1", &Namespace::default(), descriptions.iter())
}

#[test]
fn schema_of_an_odd_name_is_renamed_wherever_it_is_meant() {
    let document = build(&[task("pair", true)]);

    let reference = json!({ "$ref": "#/components/schemas/Pair_3c_a_2f_b_2c__20__7e__3e_" });
    assert_eq!(document["components"]["messages"]["pair"]["payload"], reference);
    let schema = &document["components"]["schemas"]["Pair_3c_a_2f_b_2c__20__7e__3e_"];
    assert_eq!(schema["properties"]["next"], reference);
}

#[test]
fn program_without_a_worker_runs_nothing() {
    let operations = |document: &Value| -> Vec<String> {
        document["operations"].as_object().unwrap().keys().cloned().collect()
    };

    assert_eq!(operations(&build(&[task("pair", true)])), ["enqueue.pair", "run.pair"]);
    assert_eq!(operations(&build(&[task("pair", false)])), ["enqueue.pair"]);
}

#[test]
fn call_is_answered_in_the_format_of_its_request() {
    let Description::Task(task) = task("pair", true) else { unreachable!() };
    let reply: Describe = |generator| generator.subschema_for::<u8>();
    let document = build(&[
        Description::Task(TaskDescription { reply, options: packed, ..task }),
        Description::Task(TaskDescription { name: "plain", reply, ..task }),
    ]);

    let messages = &document["components"]["messages"];
    let content_type = |name: &str| messages[name]["contentType"].clone();
    assert_eq!(content_type("pair.reply"), "application/msgpack");
    assert_eq!(content_type("failure"), "application/msgpack");
    assert_eq!(content_type("plain.reply"), "application/json");
    assert_eq!(content_type("failure_2"), "application/json");
}

#[test]
fn order_of_descriptions_does_not_matter() {
    let (one, two) = ([task("a b", true), task("a_b", true)], [task("a_b", true), task("a b", true)]);

    assert_eq!(build(&one), build(&two));
    assert_eq!(build(&one)["channels"]["pairs_2f_1"]["messages"].as_object().unwrap().len(), 2);
}

#[test]
fn program_without_anything_has_an_empty_document() {
    let document = build(&[]);

    assert_eq!(document["channels"], json!({}));
    assert_eq!(document["info"], json!({ "title": "Pairs", "version": "1" }));
}
