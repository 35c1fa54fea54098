//! Declaring in a vhost whose default queue type is quorum, and the words of what a server refuses there.

use lapin::options::BasicConsumeOptions;
use queue_core::broker::{ConsumeOptions, Publish, rabbitmq};
use queue_core::envelope::Envelope;
use queue_core::error::{ErrorKind, chain};
use queue_core::topology::{BindingDecl, Namespace, QueueDecl, QueueSpec, QueueType, Topology};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Node, consume, next, settings, soon, unique};

on_each_node!(
    classic_queue_with_priorities_is_one_where_quorum_is_the_default,
    classic_queue_is_shared_with_programs_that_write_no_type,
    default_queue_type_is_named_where_it_is_the_cause,
    binding_that_is_refused_is_told_in_the_servers_words,
    queue_that_another_consumes_alone_is_no_missing_permission,
);

/// Asks the node's management API, as `guest`.
async fn api(node: &Node, method: &str, path: &str, body: &str) -> Option<()> {
    let Some(folder) = &node.folder else {
        let why = "LEVERET_TEST_RABBITMQ<number>_NODE must name the node's folder";
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return None;
    };
    let state = std::fs::read_to_string(format!("{folder}/state")).expect("the node's state");
    let port = state.lines().find_map(|line| line.strip_prefix("management_port=")).expect("a port");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let ask = async {
        let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("the API listens");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = soon("the API's answer", ask).await;
    assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
    Some(())
}

/// A vhost of the test's own, where a queue without a type is a quorum queue.
struct Vhost {
    node: Node,
    name: String,
    url: String,
}

impl Vhost {
    async fn with_quorum_as_default(node: Node) -> Option<Self> {
        let name = unique("vhost");
        // The key's name differs among the versions.
        let body = r#"{"default_queue_type":"quorum","defaultqueuetype":"quorum"}"#;
        api(&node, "PUT", &format!("/api/vhosts/{name}"), body).await?;
        let url = node.with(|url| url.vhost.clone_from(&name));
        Some(Self { node, name, url })
    }

    async fn delete(self) {
        api(&self.node, "DELETE", &format!("/api/vhosts/{}", self.name), "").await;
    }
}

fn of(queue: QueueDecl) -> Topology {
    Topology::new().queue(queue)
}

async fn classic_queue_with_priorities_is_one_where_quorum_is_the_default(node: Node) {
    let Some(vhost) = Vhost::with_quorum_as_default(node).await else { return };
    let broker = rabbitmq::connect(&vhost.url, &settings()).await.unwrap();
    let spec = QueueSpec::new("urgent").no_dlx().queue_type(QueueType::Classic).max_priority(5);
    broker.declare(&spec.topology(&Namespace::default()).unwrap()).await.unwrap();

    for priority in [1, 5, 3] {
        let mut publish = Publish::to_queue("urgent", Envelope::new(priority.to_string()));
        publish.envelope.priority = Some(priority);
        broker.publish(publish).await.unwrap();
    }

    let mut consumer = consume(&broker, "urgent", 3).await;
    for expected in ["5", "3", "1"] {
        assert_eq!(next(&mut consumer).await.envelope.payload, expected);
    }
    broker.close().await;
    vhost.delete().await;
}

/// Such a program declares a queue by its name alone. Both sides come first in their turn.
async fn classic_queue_is_shared_with_programs_that_write_no_type(node: Node) {
    let usual = node.broker().await;
    let Some(vhost) = Vhost::with_quorum_as_default(node).await else { return };
    let quorum = rabbitmq::connect(&vhost.url, &settings()).await.unwrap();
    for (broker, priority) in [(&usual, None), (&usual, Some(5)), (&quorum, None)] {
        let (ours, theirs) = (unique("ours"), unique("theirs"));
        let spec = |name: &str| {
            let spec = QueueSpec::new(name.to_owned()).no_dlx().queue_type(QueueType::Classic);
            let spec = priority.into_iter().fold(spec, QueueSpec::max_priority);
            spec.topology(&Namespace::default()).unwrap()
        };
        let plain = |name: &str| {
            let queue = QueueDecl::new(name.to_owned());
            of(priority
                .into_iter()
                .fold(queue, |queue, priority| queue.argument("x-max-priority", i64::from(priority))))
        };

        broker.declare(&spec(&ours)).await.unwrap();
        broker.declare(&plain(&ours)).await.unwrap();
        broker.declare(&plain(&theirs)).await.unwrap();
        broker.declare(&spec(&theirs)).await.unwrap();

        broker.operator().unwrap().delete(&ours).await.unwrap();
        broker.operator().unwrap().delete(&theirs).await.unwrap();
    }
    usual.close().await;
    quorum.close().await;
    vhost.delete().await;
}

async fn default_queue_type_is_named_where_it_is_the_cause(node: Node) {
    let Some(vhost) = Vhost::with_quorum_as_default(node).await else { return };
    let broker = rabbitmq::connect(&vhost.url, &settings()).await.unwrap();
    let classic = || QueueDecl::new("old").argument("x-queue-type", "classic");
    broker.declare(&of(classic())).await.unwrap();

    let invalid =
        broker.declare(&of(QueueDecl::new("new").argument("x-max-priority", 5_i64))).await.unwrap_err();
    let other_type = broker.declare(&of(QueueDecl::new("old"))).await.unwrap_err();
    let conflict = broker.declare(&of(classic().argument("x-message-ttl", 5_i64))).await.unwrap_err();

    let is_told = |error: &queue_core::error::Error, parts: &[&str]| {
        assert_eq!(error.kind(), ErrorKind::Topology);
        let words = chain(error);
        for part in parts {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
        words
    };
    let default = format!("in vhost `{}`", vhost.name);
    let words = is_told(&invalid, &["`new`", "makes it a quorum queue", &default, "`x-max-priority`"]);
    assert!(!words.contains("exists"), "the queue does not exist: {words}");
    is_told(&other_type, &["`old`", "exists as a classic queue", "means quorum", &default, "passive"]);
    is_told(&conflict, &["`old`", "exists with `x-message-ttl` = none", "declared with 5"]);
    broker.close().await;
    vhost.delete().await;
}

async fn binding_that_is_refused_is_told_in_the_servers_words(node: Node) {
    let broker = node.broker().await;
    let queue = unique("bound");
    let bind = |exchange: &'static str, key: &'static str| {
        let decl = QueueDecl::new(queue.clone()).argument("x-expires", 600_000_i64);
        of(decl).binding(BindingDecl::new(exchange, queue.clone(), key))
    };
    let mut unknown_match = bind("amq.headers", "");
    unknown_match.bindings[0].arguments.insert("x-match", "some");

    let no_match = broker.declare(&unknown_match).await.unwrap_err();
    let hashes = broker.declare(&bind("amq.topic", "#.a.#.b.#")).await;

    let words = chain(&no_match);
    assert!(
        words.contains(&queue) && words.contains("`amq.headers`") && words.contains("x-match"),
        "{words}"
    );
    assert!(!words.contains("exists"), "{words}");
    // 3.10 and 4.0 take it.
    if node.number == 43 {
        let words = chain(&hashes.unwrap_err());
        assert!(words.contains("`amq.topic`") && words.contains("at most 2"), "{words}");
        assert!(!words.contains("exists") && !words.contains("drain"), "{words}");
    } else {
        hashes.unwrap();
    }
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

/// RabbitMQ says both by the code 403.
async fn queue_that_another_consumes_alone_is_no_missing_permission(node: Node) {
    let broker = node.broker().await;
    let queue = unique("alone");
    let decl = QueueDecl::new(queue.clone()).argument("x-queue-type", "classic");
    broker.declare(&Topology::new().queue(decl)).await.unwrap();
    let other = lapin::Connection::connect(&node.url, Default::default()).await.unwrap();
    let channel = other.create_channel().await.unwrap();
    let alone = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    // lapin cancels a consumer that is dropped.
    let _alone =
        channel.basic_consume(queue.as_str().into(), "".into(), alone, Default::default()).await.unwrap();

    let refused = broker.consume(ConsumeOptions::new(queue.clone())).await.unwrap_err();

    let words = chain(&refused);
    assert_eq!(refused.kind(), ErrorKind::Topology, "{words}");
    assert!(words.contains(&queue) && words.contains("for itself"), "{words}");
    assert!(!words.contains("set_permissions"), "{words}");
    other.close(200, "".into()).await.unwrap();
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}
