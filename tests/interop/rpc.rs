//! Calls between Leveret and programs that only speak AMQP: here lapin as the tutorials use it, on either side.

use std::fmt;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use leveret::{CallError, Task, Worker, task};
use serde_json::{Value, json};

use crate::support::foreign::Foreign;
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers =
    Leftovers { queues: &["interop.rpc", "interop.rpc.dead", "interop.rpc.server"], exchanges: &[] };

on_each_node!(
    caller_with_direct_reply_to_gets_plain_json,
    caller_with_a_reply_queue_gets_plain_json,
    our_client_calls_a_plain_server,
);

#[derive(Debug)]
struct DivisionByZero;

impl fmt::Display for DivisionByZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("division by zero")
    }
}

impl std::error::Error for DivisionByZero {}

#[task(queue = "interop.rpc", retries = 3)]
async fn divide(a: i64, b: i64) -> Result<i64, DivisionByZero> {
    a.checked_div(b).ok_or(DivisionByZero)
}

/// Stops the worker, and sees that no job is left, alive or dead.
async fn stop<T: Task>(t: &Setting, worker: Work) {
    worker.stop().await;
    for queue in [T::queue().name().clone(), T::queue().dead_queue().unwrap()] {
        assert_eq!(t.client.operator().unwrap().inspect(&queue).await.unwrap().ready, 0, "{queue}");
    }
}

/// A channel of a program that is not ours.
async fn channel(t: &Setting) -> Channel {
    match &t.foreign {
        Foreign::Lapin(lapin) => lapin.channel().await,
        Foreign::Ours(_) => unreachable!("nobody else is there"),
    }
}

/// Calls as the tutorial does: a body, `reply_to`, `correlation_id`, and not a word of Leveret.
async fn ask(channel: &Channel, reply_to: &str, id: &str, body: &Value) {
    let properties = BasicProperties::default()
        .with_reply_to(ShortString::from(reply_to))
        .with_correlation_id(ShortString::from(id));
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), "interop.rpc".into(), options, body.to_string().as_bytes(), properties)
        .await
        .unwrap();
}

/// The reply's body, its correlation id, and the names of its headers.
async fn reply(replies: &mut Consumer) -> (Value, String, Vec<String>) {
    let reply = replies.next().await.expect("the consumer goes on").unwrap();
    let properties = &reply.properties;
    assert_eq!(properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
    let id = properties.correlation_id().as_ref().expect("a correlation id").to_string();
    let headers = properties.headers().iter().flat_map(|headers| headers.inner().keys());
    let headers = headers.map(ToString::to_string).collect();
    (serde_json::from_slice(&reply.data).expect("plain JSON"), id, headers)
}

async fn worker(t: &Setting) -> Work {
    t.client.declare_queue(Divide::queue()).await.unwrap();
    Work::start(Worker::new(&t.client).task::<Divide>())
}

async fn calls(channel: &Channel, reply_to: &str, replies: &mut Consumer) {
    ask(channel, reply_to, "first", &json!({ "a": 7, "b": 2 })).await;
    let (body, id, headers) = reply(replies).await;
    assert_eq!((body, &*id, headers.len()), (json!(3), "first", 0));

    ask(channel, reply_to, "second", &json!({ "a": 7, "b": 0 })).await;
    let (body, id, headers) = reply(replies).await;
    assert_eq!(body, json!({ "error": "division by zero", "kind": "failed" }));
    assert_eq!((&*id, headers), ("second", vec!["q-error".to_owned(), "q-error-kind".to_owned()]));

    ask(channel, reply_to, "third", &json!({ "a": "seven" })).await;
    let (body, id, _) = reply(replies).await;
    assert_eq!((&body["kind"], &*id), (&json!("bad-message"), "third"));
}

async fn caller_with_direct_reply_to_gets_plain_json(t: &Setting) {
    let worker = worker(t).await;
    let channel = channel(t).await;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let address = "amq.rabbitmq.reply-to";
    let replies = channel.basic_consume(address.into(), "".into(), options, FieldTable::default());
    let mut replies = replies.await.unwrap();

    calls(&channel, address, &mut replies).await;

    stop::<Divide>(t, worker).await;
}

async fn caller_with_a_reply_queue_gets_plain_json(t: &Setting) {
    let worker = worker(t).await;
    let channel = channel(t).await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    let address = queue.name().as_str();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let replies = channel.basic_consume(address.into(), "".into(), options, FieldTable::default());
    let mut replies = replies.await.unwrap();

    calls(&channel, address, &mut replies).await;

    stop::<Divide>(t, worker).await;
}

/// Known to the server only by its queue and its JSON.
#[task(queue = "interop.rpc.server", queue_type = "classic", dlx = none)]
async fn power(base: u64, exponent: u32) -> Result<u64, std::convert::Infallible> {
    unreachable!("{base}^{exponent} is another program's business")
}

async fn our_client_calls_a_plain_server(t: &Setting) {
    let channel = channel(t).await;
    let queue = "interop.rpc.server";
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let consuming =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut requests = consuming.await.unwrap();
    let serving = tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            let body: Value = serde_json::from_slice(&request.data).unwrap();
            let (base, exponent) = (body["base"].as_u64().unwrap(), body["exponent"].as_u64().unwrap());
            let reply = match base {
                0 => "there is no such thing".to_owned(),
                _ => base.pow(u32::try_from(exponent).unwrap()).to_string(),
            };
            let properties = BasicProperties::default()
                .with_correlation_id(request.properties.correlation_id().clone().expect("a correlation id"));
            let reply_to = request.properties.reply_to().clone().expect("a reply address");
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), reply_to, options, reply.as_bytes(), properties).await.unwrap();
            request.ack(BasicAckOptions::default()).await.unwrap();
        }
    });

    let eight = t.client.call(Power { base: 2, exponent: 3 }).await;
    let junk = t.client.call(Power { base: 0, exponent: 1 }).await;

    assert_eq!(eight.unwrap(), 8);
    assert!(matches!(junk, Err(CallError::Decode { task: "power", expected: "u64", .. })), "{junk:?}");
    serving.abort();
}
