//! `amqps`: who is trusted, and in which words everything else is refused.
//!
//! `scripts/rabbitmq` gives its nodes a TLS port, and certificates of an authority of their own.

use queue_core::broker::{Publish, rabbitmq};
use queue_core::error::{Error, ErrorKind};

use crate::support::{Node, consume, job, next, queue, settings, soon};

on_each_node!(
    jobs_travel_by_tls,
    client_shows_its_certificate,
    unknown_authority_is_refused_and_names_the_option_for_it,
    wrong_authority_is_refused,
    certificate_of_another_name_is_refused,
    client_certificate_that_the_server_does_not_trust_is_refused,
    port_without_tls_is_said_to_be_one,
    tls_port_without_amqps_is_said_to_be_one,
);

/// The node's TLS port.
struct Tls {
    /// With everything that it takes: `amqps://guest:guest@localhost:5671/%2f?cacertfile=ca.pem`.
    url: String,
    /// The folder of the certificates.
    folder: String,
}

impl Tls {
    fn of(node: &Node) -> Option<Self> {
        let Some(folder) = &node.folder else {
            return skip("LEVERET_TEST_RABBITMQ<number>_NODE must name the node's folder");
        };
        let state = std::fs::read_to_string(format!("{folder}/state")).expect("the node's state");
        let url = state.lines().find_map(|line| line.strip_prefix("tls_url=")).unwrap_or_default();
        if url.is_empty() {
            return skip("the node has no TLS port: install openssl and start the node anew");
        }
        Some(Self { url: url.to_owned(), folder: format!("{folder}/etc/tls") })
    }

    /// The URL without its options.
    fn bare_url(&self) -> &str {
        self.url.split('?').next().expect("split yields something")
    }

    /// Connects as `change` says, and is refused.
    async fn refusal(&self, url: &str) -> Error {
        let url = format!("{url}{}connection_attempts=1", if url.contains('?') { '&' } else { '?' });
        soon("a refusal", rabbitmq::connect(&url, &settings())).await.expect_err("the node let us in")
    }
}

/// On a laptop a line; in CI a failure, since a suite that left out TLS would be green and say nothing.
fn skip<T>(why: &str) -> Option<T> {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
    eprintln!("skipped: {why}");
    None
}

#[track_caller]
fn assert_says(error: &Error, words: &str) {
    let said = queue_core::error::chain(error);
    assert!(said.contains(words), "does not say `{words}`: {said}");
}

#[track_caller]
fn assert_refused(error: &Error, kind: ErrorKind, words: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_says(error, words);
}

async fn jobs_travel_by_tls(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let broker = crate::support::broker(&tls.url).await;
    let queue = queue(&broker).await;
    broker.publish(Publish::to_queue(queue.clone(), job("secret"))).await.unwrap();
    let mut consumer = consume(&broker, &queue, 1).await;

    assert_eq!(next(&mut consumer).await.envelope.payload, job("secret").payload);
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

async fn client_shows_its_certificate(node: Node) {
    let Some(Tls { url, folder }) = Tls::of(&node) else { return };

    let broker =
        crate::support::broker(&format!("{url}&certfile={folder}/client.pem&keyfile={folder}/client.key"))
            .await;

    broker.close().await;
}

async fn unknown_authority_is_refused_and_names_the_option_for_it(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let error = tls.refusal(tls.bare_url()).await;

    let words = "is of no authority that this machine trusts: name your own with `cacertfile=` in the URL";
    assert_refused(&error, ErrorKind::Refused, words);
}

async fn wrong_authority_is_refused(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let error = tls.refusal(&format!("{}?cacertfile={}/stranger.pem", tls.bare_url(), tls.folder)).await;

    assert_refused(&error, ErrorKind::Refused, "is not of the authority that `cacertfile=` in the URL names");
}

async fn certificate_of_another_name_is_refused(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let error = tls.refusal(&format!("{}&server_name=rabbit.example.com", tls.url)).await;

    assert_refused(&error, ErrorKind::Refused, "is for another name: write that name in the URL");
    assert_says(&error, "rabbit.example.com");
}

async fn client_certificate_that_the_server_does_not_trust_is_refused(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };
    let Tls { url, folder } = &tls;

    let error =
        tls.refusal(&format!("{url}&certfile={folder}/stranger.pem&keyfile={folder}/stranger.key")).await;

    // The server's reason may be lost when it hangs up.
    assert_says(&error, "our certificate");
    assert_says(&error, "check `certfile=` and `keyfile=` in the URL");
}

async fn port_without_tls_is_said_to_be_one(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let error = tls.refusal(&node.url.replace("amqp://", "amqps://")).await;

    assert_refused(&error, ErrorKind::Config, "does not speak TLS: use its TLS port");
}

async fn tls_port_without_amqps_is_said_to_be_one(node: Node) {
    let Some(tls) = Tls::of(&node) else { return };

    let error = tls.refusal(&tls.bare_url().replace("amqps://", "amqp://")).await;

    assert_says(&error, "if that is a TLS port, begin the URL with `amqps://`");
}
