//! The connection beside those that jobs go by, on which queues are asked about and operators walk: one serves all, and
//! it is not closed under a caller that uses it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use leveret::Client;
use queue_core::broker::{Operator, Walk};
use queue_core::topology::{Name, QueueDecl, Topology};

use crate::support::{Node, Proxy, Role, client, queue, send, soon, unique, until, until_ready};

on_each!(Node:
    walks_that_begin_at_once_do_not_end_each_other,
    many_questions_at_once_open_one_connection,
    connection_that_is_slow_once_is_not_closed_under_its_walk,
    worn_letters_are_not_doubled_by_a_walk_that_loses_its_connection,
);

fn operator(client: &Client) -> &dyn Operator {
    client.broker().operator().unwrap()
}

/// Begins a walk, which sees this many messages.
pub(crate) async fn walk<'a>(client: &'a Client, queue: &Name, count: usize) -> Box<dyn Walk + 'a> {
    let mut walk = soon("the walk", operator(client).walk(queue)).await.unwrap();
    assert_eq!(soon("a page", walk.next(100)).await.unwrap().len(), count);
    walk
}

async fn walks_that_begin_at_once_do_not_end_each_other(node: Node) {
    let direct = client(&node.url).await;
    let (one, two) = (queue(&direct, "one").await, queue(&direct, "two").await);
    send(&direct, &one, 3).await;
    send(&direct, &two, 3).await;
    let client = client(&node.url).await;

    let (mut first, mut second) = tokio::join!(walk(&client, &one, 3), walk(&client, &two, 3));
    // Each is at its queue still.
    send(&direct, &one, 1).await;
    send(&direct, &two, 1).await;
    let (first_page, second_page) = tokio::join!(first.next(100), second.next(100));

    assert_eq!((first_page.unwrap().len(), second_page.unwrap().len()), (1, 1));
    tokio::join!(first.end(), second.end());
    until_ready(&direct, &one, 4).await;
    until_ready(&direct, &two, 4).await;
    client.close().await;
    direct.close().await;
}

/// An enqueue that is refused asks how full its queue is: a thousand of them must not log in a thousand times.
async fn many_questions_at_once_open_one_connection(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "asked").await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let before = proxy.accepted();

    let asked = join_all((0..200).map(|_| client.operator().unwrap().inspect(&queue))).await;

    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    assert_eq!(proxy.accepted() - before, 1);
    client.close().await;
    direct.close().await;
}

async fn connection_that_is_slow_once_is_not_closed_under_its_walk(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "walked").await;
    send(&direct, &queue, 3).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut walk = walk(&client, &queue, 3).await;
    let before = proxy.accepted();

    // The next question gives it two seconds, and then goes by another connection.
    proxy.freeze();
    let asking = client.operator().unwrap().inspect(&queue);
    let thawing = async {
        proxy.until_accepted(before).await;
        proxy.pass();
    };
    let (asked, ()) = tokio::join!(asking, thawing);
    asked.unwrap();
    // An idle one is closed after ten seconds.
    let thawed = Instant::now();
    until("the first look", async || thawed.elapsed() > Duration::from_secs(12)).await;

    send(&direct, &queue, 1).await;
    assert_eq!(walk.next(100).await.unwrap().len(), 1);
    walk.end().await;
    until_ready(&direct, &queue, 4).await;
    client.close().await;
    direct.close().await;
}

/// A queue of so many messages that have come back so often that RabbitMQ 3.10 and 4.0 may soon drop them: the next walk
/// writes them anew.
pub(crate) async fn worn(client: &Client, count: u64) -> Name {
    let queue: Name = unique("worn").into();
    let decl = QueueDecl::new(queue.clone()).argument("x-queue-type", "quorum");
    client.declare(&Topology::new().queue(decl.argument("x-expires", 600_000_i64))).await.unwrap();
    send(client, &queue, count).await;
    for _ in 0..10 {
        let walk = walk(client, &queue, usize::try_from(count).unwrap()).await;
        walk.end().await;
        until_ready(client, &queue, count).await;
    }
    queue
}

async fn worn_letters_are_not_doubled_by_a_walk_that_loses_its_connection(node: Node) {
    let direct = client(&node.url).await;
    let queue = worn(&direct, 5).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let walk = walk(&client, &queue, 5).await;

    proxy.reset_only(Role::Questions);
    until("lapin to see it", async || proxy.client_sockets() == 1).await;
    walk.end().await;

    until_ready(&direct, &queue, 5).await;
    client.close().await;
    direct.close().await;
    assert_eq!(proxy.sent(&[0, 60, 0, 40]), 0, "copies were published");
}
