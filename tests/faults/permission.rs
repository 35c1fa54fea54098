//! The users of docs/security.md, with the permissions that the page gives them: each can do what the page says, and those
//! that are to do little can do no more.

use std::sync::Arc;
use std::time::Duration;

use leveret::{Client, EnqueueError, Properties, PublishError, Task, TaskResult, task};
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

use crate::support::{Book, PATIENCE, Private, fresh, ready, soon, unique, until_ready, work};

on_each!(Private:
    documented_worker_may_work,
    documented_web_server_may_enqueue_now_and_later,
    documented_kiosk_may_enqueue_and_neither_read_nor_delay,
    documented_partner_reaches_one_queue,
    documented_operator_may_look_and_replay_and_declares_nothing,
);

const PAGE: &str = include_str!("../../docs/security.md");
const SOON: Duration = Duration::from_millis(200);

/// The job of the page. Number 13 is a dead letter at once.
#[task(queue = "emails", retries = 0)]
async fn send_email(book: &Book, number: u64) -> TaskResult {
    book.ran(number);
    if number == 13 { Err("the mailbox is full".into()) } else { Ok(()) }
}

/// The same queue for a program that only enqueues, as the page says.
#[task(queue = "emails", declare = "passive", dlx = none)]
async fn send_from_kiosk(number: u64) {
    assert!(number > 0);
}

/// Reads the page's permissions of a user: configure, write, read. The page may state them more than once.
fn patterns(user: &str) -> [&'static str; 3] {
    let command = format!("set_permissions -p shop {user} ");
    let said = PAGE
        .split(&command)
        .skip(1)
        .map(|rest| rest.split('\'').skip(1).step_by(2).take(3).collect::<Vec<_>>());
    let mut said: Vec<_> = said.collect();
    said.dedup();
    assert_eq!(said.len(), 1, "the page says one thing about `{user}`: {said:?}");
    said[0][..].try_into().expect("three patterns")
}

/// A client of such a user. Its namespace is the default one, as on the page.
async fn client_of(node: &Private, user: &str) -> Client {
    let name = unique(user);
    let [configure, write, read] = patterns(user);
    node.ctl(&["add_user", &name, "secret"]).await;
    node.ctl(&["set_permissions", &name, configure, write, read]).await;
    connect(&node.url.replace("guest:guest", &format!("{name}:secret"))).await
}

async fn connect(url: &str) -> Client {
    let client = soon("the connection", Client::builder().publish_timeout(PATIENCE).connect(url)).await;
    client.unwrap_or_else(|error| panic!("connect: {}", leveret::error_chain(&error)))
}

/// Connects as a user with all permissions. Leaves the page's queues declared and empty.
async fn owner(node: &Private) -> Client {
    let owner = connect(&node.url).await;
    fresh::<SendEmail>(&owner).await;
    owner.operator().unwrap().delete("emails.suspect").await.unwrap();
    owner.declare_queue(SendEmail::queue()).await.unwrap();
    owner
}

async fn documented_worker_may_work(node: Private) {
    let owner = owner(&node).await;
    fresh::<SendEmail>(&owner).await;
    let client = client_of(&node, "worker").await;
    let book = Arc::new(Book::default());

    let worker = work::<SendEmail>(&client, &book);
    client.enqueue(SendEmail { number: 1 }).await.unwrap();
    client.enqueue(SendEmail { number: 2 }).delay(SOON).await.unwrap();
    client.enqueue(SendEmail { number: 13 }).await.unwrap();

    book.until_ran(3).await;
    until_ready(&owner, "emails.dead", 1).await;
    worker.stop().await;
    // What it needs only where a job ends processes.
    let apart = client.broker().suspects_of(SendEmail::queue().name()).unwrap();
    client.declare(&Topology::new().queue(apart)).await.unwrap();
    client.broker().liveness().unwrap().name().await.unwrap();
    client.close().await;
    owner.close().await;
}

async fn documented_web_server_may_enqueue_now_and_later(node: Private) {
    let owner = owner(&node).await;
    fresh::<SendEmail>(&owner).await;
    let client = client_of(&node, "web").await;

    client.enqueue(SendEmail { number: 1 }).await.unwrap();
    client.enqueue(SendEmail { number: 2 }).delay(SOON).await.unwrap();

    assert_eq!(ready(&client, "emails").await, 1);
    client.close().await;
    // Both arrive, and none is left to arrive in another test.
    let book = Arc::new(Book::default());
    let worker = work::<SendEmail>(&owner, &book);
    book.until_ran(2).await;
    worker.stop().await;
    owner.close().await;
}

async fn documented_kiosk_may_enqueue_and_neither_read_nor_delay(node: Private) {
    let owner = owner(&node).await;
    let client = client_of(&node, "kiosk").await;

    client.enqueue(SendFromKiosk { number: 1 }).await.unwrap();

    assert_eq!(ready(&owner, "emails").await, 1);
    client.enqueue(SendFromKiosk { number: 2 }).delay(SOON).await.unwrap_err();
    client.admin().dead_letters("emails", 1).await.unwrap_err();
    client.admin().purge("emails").await.unwrap_err();
    assert_eq!(ready(&owner, "emails").await, 1);
    client.close().await;
    owner.close().await;
}

async fn documented_partner_reaches_one_queue(node: Private) {
    let owner = owner(&node).await;
    // What the page has an administrator do.
    let topology = Topology::new()
        .exchange(ExchangeDecl::new("partner", ExchangeKind::Fanout))
        .binding(BindingDecl::new("partner", "emails", ""));
    owner.declare(&topology).await.unwrap();
    let client = client_of(&node, "partner").await;

    client.publish_raw("partner", "", r#"{"number": 1}"#, Properties::new()).await.unwrap();

    assert_eq!(ready(&owner, "emails").await, 1);
    let refused = client.publish_raw("", "emails", r#"{"number": 2}"#, Properties::new()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused:?}");
    assert_eq!(ready(&owner, "emails").await, 1);
    client.close().await;
    owner.close().await;
}

async fn documented_operator_may_look_and_replay_and_declares_nothing(node: Private) {
    let owner = owner(&node).await;
    let book = Arc::new(Book::default());
    let worker = work::<SendEmail>(&owner, &book);
    owner.enqueue(SendEmail { number: 13 }).await.unwrap();
    until_ready(&owner, "emails.dead", 1).await;
    worker.stop().await;
    let client = client_of(&node, "operator").await;

    assert_eq!(client.admin().dead_letters("emails.dead", 10).await.unwrap().len(), 1);
    assert_eq!(client.admin().dead_letters("leveret.unroutable", 10).await.unwrap().len(), 0);
    assert_eq!(client.admin().replay("emails.dead", 10, |_| true).await.unwrap(), 1);

    assert_eq!(ready(&client, "emails").await, 1);
    let mine = Topology::new().queue(QueueDecl::new("mine"));
    client.declare(&mine).await.unwrap_err();
    let refused = client.enqueue(SendEmail { number: 1 }).await.unwrap_err();
    assert!(matches!(refused, EnqueueError::Declare { .. }), "{refused:?}");
    client.close().await;
    owner.close().await;
}
