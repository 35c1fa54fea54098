//! Exact bindings by the management API: what they need, and how long they hold. That they are exact stands in the
//! contract suite.

use std::sync::Arc;

use leveret::{Client, Properties, RawMessage, Worker, subscriber};
use queue_core::broker::{Broker, ManagementUrl, Publish, rabbitmq};
use queue_core::envelope::Envelope;
use queue_core::error::{Error, ErrorKind, PublishError, chain};
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

use crate::proxy::Proxy;
use crate::support::{Node, settings, soon, unique};

on_each_node!(
    without_the_api_exact_bindings_are_refused_at_once,
    refusals_name_the_address_and_the_remedy,
    login_of_the_broker_serves_for_both,
    tls_trusts_the_authority_of_the_broker_s_url,
    binding_that_was_taken_out_does_not_come_back_with_the_connection,
    binding_of_a_newer_program_survives_our_reconnect,
    subscriber_takes_out_the_binding_of_its_earlier_version,
);

/// What the node's folder says of it; `None`, with a line that says so, where the folder is not known.
fn recorded(node: &Node, key: &str) -> Option<String> {
    let Some(folder) = &node.folder else {
        let why = "LEVERET_TEST_RABBITMQ<number>_NODE must name the node's folder";
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return None;
    };
    let state = std::fs::read_to_string(format!("{folder}/state")).expect("the node's state");
    let value = state.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(value.unwrap_or_else(|| panic!("`{key}` is not recorded: start the node anew")).to_owned())
}

/// The node's management API, without a login.
fn api(node: &Node) -> Option<String> {
    Some(format!("http://127.0.0.1:{}", recorded(node, "management_port")?))
}

async fn broker(url: &str, api: Option<&str>) -> Arc<dyn Broker> {
    let mut settings = settings();
    settings.management = api.map(ManagementUrl::new);
    soon("a connection", rabbitmq::connect(url, &settings)).await.unwrap()
}

/// One exchange for all, since exchanges stay; each test's queue is bound by keys of its own.
const EXCHANGE: &str = "test.exact";

/// The queue, bound by these words behind its name.
fn bound(queue: QueueDecl, words: &[&str]) -> Topology {
    let name = queue.name.clone();
    let topology = Topology::new().exchange(ExchangeDecl::new(EXCHANGE, ExchangeKind::Topic)).queue(queue);
    words.iter().fold(topology, |topology, word| {
        topology.binding(BindingDecl::new(EXCHANGE, name.clone(), format!("{name}.{word}")))
    })
}

/// The same, and by nothing else.
fn exact(queue: &str, words: &[&str]) -> Topology {
    bound(decl(queue).exact_bindings(), words)
}

/// What a failed test leaves behind goes by itself.
fn decl(queue: &str) -> QueueDecl {
    QueueDecl::new(queue.to_owned()).argument("x-expires", 600_000_i64)
}

/// By which of these words the queue is bound.
async fn routed<'a>(broker: &Arc<dyn Broker>, queue: &str, words: &[&'a str]) -> Vec<&'a str> {
    let mut routed = Vec::new();
    for word in words {
        let mut publish = Publish::to_exchange(EXCHANGE, format!("{queue}.{word}"), Envelope::new("x"));
        publish.mandatory = true;
        match broker.publish(publish).await {
            Ok(()) => routed.push(*word),
            Err(PublishError::Unroutable { .. }) => {}
            Err(error) => panic!("publish: {error}"),
        }
    }
    routed
}

async fn refusal(node: &Node, api: &str) -> Error {
    let broker = broker(&node.url, Some(api)).await;
    let queue = unique("exact.refused");
    let refused = soon("a refusal", broker.declare(&exact(&queue, &["a"]))).await.unwrap_err();
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
    refused
}

async fn without_the_api_exact_bindings_are_refused_at_once(node: Node) {
    let broker = broker(&node.url, None).await;
    let queue = unique("exact.without");

    let error = broker.declare(&exact(&queue, &["a"])).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Config);
    let words = error.to_string();
    assert!(words.contains(&queue) && words.contains("LEVERET_MANAGEMENT_URL"), "{words}");
    assert!(broker.operator().unwrap().inspect(&queue).await.is_err(), "nothing was declared");
    broker.close().await;
}

async fn refusals_name_the_address_and_the_remedy(node: Node) {
    let Some(api) = api(&node) else { return };
    let address = api.strip_prefix("http://").unwrap();

    let wrong_password = refusal(&node, &format!("http://guest:secret@{address}")).await;
    assert_eq!(wrong_password.kind(), ErrorKind::Refused);
    let words = wrong_password.to_string();
    assert!(
        words.contains(address) && words.contains("`guest`") && words.contains("set_user_tags"),
        "{words}"
    );
    assert!(!words.contains("secret"), "{words}");

    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = refusal(&node, &format!("http://127.0.0.1:{port}")).await;
    assert_eq!(nobody.kind(), ErrorKind::Connection);
    assert!(nobody.to_string().contains("rabbitmq-plugins enable rabbitmq_management"), "{nobody}");

    let amqp = refusal(&node, &format!("http://{}", node.host())).await;
    assert!(amqp.to_string().contains(&node.host()), "{amqp}");

    let elsewhere = refusal(&node, &format!("{api}/elsewhere")).await;
    assert_eq!(elsewhere.kind(), ErrorKind::Config);
    assert!(elsewhere.to_string().contains("elsewhere"), "{elsewhere}");
}

async fn login_of_the_broker_serves_for_both(node: Node) {
    let Some(api) = api(&node) else { return };
    let queue = unique("exact.login");
    let broker = broker(&node.url, Some(&api)).await;

    broker.declare(&bound(decl(&queue), &["old", "new"])).await.unwrap();
    broker.declare(&exact(&queue, &["new"])).await.unwrap();

    assert_eq!(routed(&broker, &queue, &["old", "new"]).await, ["new"]);
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

async fn tls_trusts_the_authority_of_the_broker_s_url(node: Node) {
    let Some(port) = recorded(&node, "management_tls_port") else { return };
    let Some(url) = recorded(&node, "tls_url").filter(|url| !url.is_empty()) else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the node has no TLS port: install openssl");
        return;
    };
    let api = format!("https://localhost:{port}");
    let unknown = refusal(&node, &api).await;
    assert_eq!(unknown.kind(), ErrorKind::Connection);
    assert!(chain(&unknown).contains("UnknownIssuer"), "{}", chain(&unknown));

    let queue = unique("exact.tls");
    let broker = broker(&url, Some(&api)).await;
    broker.declare(&bound(decl(&queue), &["old", "new"])).await.unwrap();
    broker.declare(&exact(&queue, &["new"])).await.unwrap();

    assert_eq!(routed(&broker, &queue, &["old", "new"]).await, ["new"]);
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

/// What is declared on every connect must have forgotten it, too.
async fn binding_that_was_taken_out_does_not_come_back_with_the_connection(node: Node) {
    let Some(api) = api(&node) else { return };
    let queue = unique("exact.reconnect");
    let proxy = Proxy::start(&node.host()).await;
    let broker = broker(&node.with(|url| url.host = proxy.address.to_string()), Some(&api)).await;
    broker.declare(&bound(decl(&queue), &["old", "new"])).await.unwrap();
    broker.declare(&exact(&queue, &["new"])).await.unwrap();

    proxy.cut();

    assert_eq!(routed(&broker, &queue, &["old", "new"]).await, ["new"]);
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

/// While both run, an old program that reconnects must not undo what the new one has bound.
async fn binding_of_a_newer_program_survives_our_reconnect(node: Node) {
    let Some(api) = api(&node) else { return };
    let queue = unique("exact.newer");
    let proxy = Proxy::start(&node.host()).await;
    let old = broker(&node.with(|url| url.host = proxy.address.to_string()), Some(&api)).await;
    let new = broker(&node.url, Some(&api)).await;
    old.declare(&exact(&queue, &["first"])).await.unwrap();
    new.declare(&exact(&queue, &["first", "second"])).await.unwrap();

    proxy.cut();

    // The first publish waits for the new connection, on which everything is declared again.
    assert_eq!(routed(&old, &queue, &["first", "second"]).await, ["first", "second"]);
    new.operator().unwrap().delete(&queue).await.unwrap();
    old.close().await;
    new.close().await;
}

mod earlier {
    use super::*;

    #[subscriber(
        queue = "test.exact.worker",
        exchange = "test.exact",
        kind = "topic",
        binding = "worker.old",
        binding = "worker.new"
    )]
    pub(super) async fn archive(_message: RawMessage) {}
}

mod later {
    use super::*;

    #[subscriber(
        queue = "test.exact.worker",
        exchange = "test.exact",
        kind = "topic",
        binding = "worker.new",
        bindings = "exact"
    )]
    pub(super) async fn archive(_message: RawMessage) {}
}

async fn subscriber_takes_out_the_binding_of_its_earlier_version(node: Node) {
    let Some(api) = api(&node) else { return };
    let builder = Client::builder().namespace("test.rabbitmq").unwrap().management(api);
    let client = soon("a connection", builder.connect(&node.url)).await.unwrap();
    let delete = async || {
        for queue in ["test.exact.worker", "test.exact.worker.dead"] {
            client.operator().unwrap().delete(queue).await.unwrap();
        }
    };
    let publish = async |key: &'static str| {
        client.publish_raw(EXCHANGE, key, "x", Properties::new()).must_route().await
    };
    let work = async |worker: Worker| soon("the end", worker.signals(false).run_until_idle()).await.unwrap();
    let later = || Worker::new(&client).task::<later::Archive>();
    // What a failed run may have left.
    delete().await;
    work(Worker::new(&client).task::<earlier::Archive>()).await;
    publish("worker.old").await.unwrap();

    // What came by it before is worked all the same.
    assert_eq!(work(later()).await.succeeded, 1);

    let refused = publish("worker.old").await;
    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
    publish("worker.new").await.unwrap();
    assert_eq!(work(later()).await.succeeded, 1);
    delete().await;
    client.close().await;
}
