//! What an operator does to a running node: closes connections, changes a password, sets a short `consumer_timeout`. (A
//! memory alarm is in `alarm`.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{Connection, ConnectionProperties};
use leveret::{Client, PublishError, task};
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;
use queue_core::topology::{ExchangeDecl, ExchangeKind, Name, QueueDecl, Topology};

use crate::support::{
    Book, NAMESPACE, Private, Proxy, builder, client, connect, consume, fresh, log, message, next, queue,
    ready, send, soon, text, unique, until, work,
};

on_each!(Private:
    closed_connections_come_back,
    changed_password_is_said_aloud_and_tried_again,
    permission_that_is_missing_is_refused_for_now_and_to_nobody_else,
    job_longer_than_consumer_timeout_goes_back_and_disturbs_no_other_queue,
    queue_that_does_not_answer_disturbs_no_other_queue,
    queue_that_does_not_confirm_holds_up_no_other_queue,
    queue_that_never_confirms_is_got_past,
    last_acks_to_a_slow_quorum_queue_arrive,
    last_acks_to_a_slow_queue_of_a_single_active_consumer_arrive,
    policy_that_drops_jobs_before_they_can_be_set_apart_is_named,
    suspect_that_may_not_be_set_apart_runs_alone_in_its_own_queue,
);

#[task(queue = "test.faults.operator.closed")]
async fn closed(book: &Book, number: u64) {
    book.ran(number);
}

async fn closed_connections_come_back(node: Private) {
    let client = client(&node.url).await;
    fresh::<Closed>(&client).await;
    let book = Arc::new(Book::default());
    let worker = work::<Closed>(&client, &book);
    client.enqueue(Closed { number: 0 }).await.unwrap();
    book.confirmed(0);
    book.until_ran(1).await;

    node.close_all_connections("maintenance").await;

    client.enqueue(Closed { number: 1 }).await.unwrap();
    book.confirmed(1);
    book.balance(&format!("connections closed by the operator, RabbitMQ {}", node.number)).await;
    worker.stop().await;
    client.close().await;
}

async fn changed_password_is_said_aloud_and_tried_again(node: Private) {
    let user = unique("user");
    node.ctl(&["add_user", &user, "before"]).await;
    node.ctl(&["set_permissions", &user, ".*", ".*", ".*"]).await;
    let client = client(&node.url.replace("guest:guest", &format!("{user}:before"))).await;
    let queue = queue(&client, "password").await;
    let mut consumer = consume(&client, &queue, 1).await;

    node.ctl(&["change_password", &user, "after"]).await;
    node.close_all_connections("rotation").await;

    let said = || log::lines(&["ERROR", "refuses us", &user]);
    until("both connections to be refused", async || said().len() >= 2).await;
    assert!(said()[0].contains("check user name and password in the URL"), "{:?}", said());
    node.ctl(&["change_password", &user, "before"]).await;
    client.broker().publish(message(&queue, "x")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    // Who is refused must not hammer: servers lock accounts. These took seconds each.
    assert!(said().len() <= 6, "{:?}", said());
}

async fn permission_that_is_missing_is_refused_for_now_and_to_nobody_else(node: Private) {
    let user = unique("user");
    node.ctl(&["add_user", &user, "secret"]).await;
    node.ctl(&["set_permissions", &user, ".*", "^test", ".*"]).await;
    let client = client(&node.url.replace("guest:guest", &format!("{user}:secret"))).await;
    let exchange: Name = unique("topic").into();
    let topic = ExchangeDecl::new(exchange.clone(), ExchangeKind::Topic);
    client.declare(&Topology::new().exchange(topic)).await.unwrap();
    node.ctl(&["set_topic_permissions", &user, &exchange, "^good", ".*"]).await;

    // To the default exchange.
    let refused = client.broker().publish(message(&unique("nowhere").into(), "x")).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused(words) if words.contains("amq.default")), "{refused:?}");
    let key = |n| if n == 50 { "bad" } else { "good" };
    let events = (0..100).map(|n| Publish::to_exchange(exchange.clone(), key(n), Envelope::new("{}")));
    let outcomes = client.broker().publish_all(events.collect()).await;

    let failed: Vec<_> = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(matches!(failed[..], [(50, Err(PublishError::Refused(_)))]), "{failed:?}");
    client.close().await;
}

async fn job_longer_than_consumer_timeout_goes_back_and_disturbs_no_other_queue(node: Private) {
    // For channels and consumers that are opened from now on.
    node.eval(
        "application:set_env(rabbit, consumer_timeout, 1500), \
         application:set_env(rabbit, channel_tick_interval, 300).",
    )
    .await;
    let client = client(&node.url).await;
    // A quorum queue: 4.3 waits without end for consumers of classic queues.
    let (long, other): (Name, _) = (unique("long").into(), queue(&client, "other").await);
    let decl = QueueDecl::new(long.clone()).argument("x-queue-type", "quorum");
    client.declare(&Topology::new().queue(decl.argument("x-expires", 600_000_i64))).await.unwrap();
    let mut long_consumer = consume(&client, &long, 1).await;
    let mut other_consumer = consume(&client, &other, 1).await;
    send(&client, &long, 1).await;
    let too_long = next(&mut long_consumer).await;

    let again = next(&mut long_consumer).await;

    assert_eq!(again.envelope.id, too_long.envelope.id);
    assert!(again.redelivered);
    let settled = too_long.settle(Settlement::Ack).await;
    again.settle(Settlement::Ack).await.unwrap();
    let said = log::lines(&[&long]);
    assert_eq!(said.len(), 1, "{said:?}");
    if node.number == 43 {
        // The server ends the consumer and gives no reason; the channel stays, and with it the way for an ack.
        assert!(said[0].contains("WARN") && said[0].contains("longer than `consumer_timeout`"), "{said:?}");
    } else {
        // It closes the channel, and says why.
        assert!(matches!(settled, Err(SettleError::Lost)), "{settled:?}");
        assert!(said[0].contains("ERROR") && said[0].contains("raise `consumer_timeout`"), "{said:?}");
    }
    // The other queue's consumer has heard nothing of it, on the same connection.
    send(&client, &other, 1).await;
    next(&mut other_consumer).await.settle(Settlement::Ack).await.unwrap();
    let said = log::lines(&[&other]);
    assert!(said.is_empty(), "{said:?}");
    soon("the close", client.close()).await;
    node.eval(
        "application:set_env(rabbit, consumer_timeout, 1800000), \
         application:set_env(rabbit, channel_tick_interval, 60000).",
    )
    .await;
}

/// As a quorum queue without a majority, or a mirror that is being synchronised.
async fn queue_that_does_not_answer_disturbs_no_other_queue(node: Private) {
    let client = client(&node.url).await;
    let (stuck, well) = (queue(&client, "stuck").await, queue(&client, "well").await);
    let mut well_consumer = consume(&client, &well, 1).await;
    send(&client, &well, 1).await;
    let held = next(&mut well_consumer).await;
    tell_process(&node, "suspend", &stuck).await;

    // Its start is not waited for, or it would hold up the start of a worker's other queues.
    let mut stuck_consumer =
        soon("the start", client.broker().consume(ConsumeOptions::new(stuck.clone()))).await.unwrap();
    // Which it could not be if its connection had ended.
    held.settle(Settlement::Ack).await.unwrap();
    // Nor does it keep them away when connections come back, which declares everything again.
    node.close_all_connections("maintenance").await;
    send(&client, &well, 1).await;
    next(&mut well_consumer).await.settle(Settlement::Ack).await.unwrap();

    tell_process(&node, "resume", &stuck).await;
    send(&client, &stuck, 1).await;
    next(&mut stuck_consumer).await.settle(Settlement::Ack).await.unwrap();
    assert!(!log::lines(&["WARN", "does not answer for the queue", &stuck]).is_empty());
    client.close().await;
}

async fn queue_that_does_not_confirm_holds_up_no_other_queue(node: Private) {
    let client = client(&node.url).await;
    let (stuck, well) = (queue(&client, "stuck").await, queue(&client, "well").await);
    tell_process(&node, "suspend", &stuck).await;
    let hung = tokio::spawn({
        let (client, message) = (client.clone(), message(&stuck, "hung"));
        async move { client.broker().publish(message).await }
    });
    // One goes by the publisher's task when another is on its way.
    until("it is on its way", async || {
        node.ctl(&["list_channels", "messages_unconfirmed"]).await.contains('1')
    })
    .await;

    // More than are let wait for their confirms at once.
    let since = Instant::now();
    send(&client, &well, 5_000).await;
    let gone = client.broker().publish(message(&unique("gone").into(), "x")).await.unwrap_err();
    let took = since.elapsed();

    assert!(matches!(gone, PublishError::Unroutable { .. }), "{gone:?}");
    assert!(!hung.is_finished(), "the queue was not stuck");
    assert!(took < Duration::from_secs(20), "it took {took:?}");
    tell_process(&node, "resume", &stuck).await;
    soon("its confirm", hung).await.unwrap().unwrap();
    client.close().await;
}

async fn queue_that_never_confirms_is_got_past(node: Private) {
    let builder = Client::builder().namespace(NAMESPACE).unwrap().publish_timeout(Duration::from_secs(1));
    let client = builder.connect(&node.url).await.unwrap();
    let (stuck, well) = (queue(&client, "stuck").await, queue(&client, "well").await);
    tell_process(&node, "suspend", &stuck).await;
    let hung = tokio::spawn({
        let (client, message) = (client.clone(), message(&stuck, "hung"));
        async move { client.broker().publish(message).await }
    });

    // Together more than may stand behind it.
    while !hung.is_finished() {
        send(&client, &well, 1_000).await;
    }
    for _ in 0..40 {
        send(&client, &well, 1_000).await;
    }

    let hung = hung.await.unwrap();
    assert!(matches!(hung, Err(PublishError::Unconfirmed { .. })), "{hung:?}");
    tell_process(&node, "resume", &stuck).await;
    client.close().await;
}

/// Suspends a classic queue, or resumes it.
pub(crate) async fn tell_process(node: &Private, what: &str, queue: &Name) {
    let lookup = format!("rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>))");
    node.eval(&format!("{{ok, Q}} = {lookup}, sys:{what}(amqqueue:get_pid(Q)).")).await;
}

async fn last_acks_to_a_slow_quorum_queue_arrive(node: Private) {
    last_acks_arrive(node, |decl| decl).await;
}

/// Which refuses `basic.get`, and closes the channel of whoever asks.
async fn last_acks_to_a_slow_queue_of_a_single_active_consumer_arrive(node: Private) {
    last_acks_arrive(node, |decl| decl.argument("x-single-active-consumer", true)).await;
}

/// A channel has 32 settlements on their way to a quorum queue, and stashes the others: they go with it when it closes.
async fn last_acks_arrive(node: Private, with: impl FnOnce(QueueDecl) -> QueueDecl) {
    const COUNT: usize = 40;
    let proxy = Proxy::to(&node.url);
    let (direct, client) = (client(&node.url).await, client(&proxy.url("")).await);
    let queue: Name = unique("last").into();
    let decl = with(QueueDecl::new(queue.clone()).argument("x-queue-type", "quorum"));
    direct.declare(&Topology::new().queue(decl)).await.unwrap();
    let mut consumer = consume(&client, &queue, COUNT as u16).await;
    send(&direct, &queue, COUNT as u64).await;
    let mut held = Vec::new();
    for _ in 0..COUNT {
        held.push(next(&mut consumer).await);
    }
    // As a worker does that waits for the running jobs.
    consumer.stop();
    until("the cancel", async || proxy.sent(&[0, 60, 0, 30]) > 0).await;
    // Suspended until there is a queue of that name.
    let go = unique("go");
    node.eval(&format!(
        "Of = fun(Name) -> rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, Name)) end, \
         {{ok, Q}} = Of(<<\"{queue}\">>), Pid = amqqueue:get_pid(Q), sys:suspend(Pid), \
         spawn(fun Wait() -> case Of(<<\"{go}\">>) of {{ok, _}} -> sys:resume(Pid); \
         _ -> timer:sleep(20), Wait() end end)."
    ))
    .await;

    // The first comes last: none of them acks those before it as well.
    let acked = async |count| until("the acks", async || proxy.sent(&[0, 60, 0, 80]) >= count).await;
    while let Some(delivery) = held.pop() {
        delivery.settle(Settlement::Ack).await.unwrap();
        if held.len() == 1 {
            acked(COUNT - 1).await;
        }
    }
    let resume = async {
        acked(COUNT).await;
        let decl = QueueDecl::new(go.clone()).argument("x-expires", 600_000_i64);
        direct.declare(&Topology::new().queue(decl)).await.unwrap();
    };
    tokio::join!(soon("the end", consumer.finish()), resume);
    client.close().await;

    send(&direct, &queue, 1).await;
    let first = next(&mut consume(&direct, &queue, 1).await).await;
    assert!(!first.redelivered, "ack {} was lost", text(&first));
    drop(first);
    direct.operator().unwrap().delete(&queue).await.unwrap();
    direct.close().await;
}

#[task(queue = "test.faults.operator.low", queue_type = "quorum", crash_limit = 2)]
async fn low(book: &Book, number: u64) {
    book.ran(number);
}

/// It counts more than what the queue says, and AMQP does not tell of it; the management API does.
async fn policy_that_drops_jobs_before_they_can_be_set_apart_is_named(node: Private) {
    let pattern = "^test\\.faults\\.operator\\.low$";
    node.ctl(&["set_policy", "low", pattern, r#"{"delivery-limit":1}"#]).await;
    let client = connect(&node.url, builder().management(node.recorded("management_url"))).await;
    fresh::<Low>(&client).await;

    let worker = work::<Low>(&client, &Arc::new(Book::default()));

    until("the policy is named", async || {
        !log::lines(&["WARN", "test.faults.operator.low", "crash_limit=2", "raise its `delivery-limit`"])
            .is_empty()
    })
    .await;
    worker.stop().await;
    client.close().await;
    node.ctl(&["clear_policy", "low"]).await;
}

#[task(queue = "test.faults.operator.few", queue_type = "quorum")]
async fn few(book: &Book, number: u64) {
    book.ran(number);
}

async fn suspect_that_may_not_be_set_apart_runs_alone_in_its_own_queue(node: Private) {
    let (queue, apart) = ("test.faults.operator.few", "test.faults.operator.few.suspect");
    let user = unique("user");
    node.ctl(&["add_user", &user, "secret"]).await;
    let all_but = r"^test\.faults\.(?!operator\.few\.suspect)";
    node.ctl(&["set_permissions", &user, all_but, ".*", ".*"]).await;
    let owner = client(&node.url).await;
    fresh::<Few>(&owner).await;
    owner.enqueue(Few { number: 7 }).await.unwrap();
    // Each look counts as a holder that was lost, and on 4.3 every second one.
    let looker = Connection::connect(&node.url, ConnectionProperties::default()).await.unwrap();
    let channel = looker.create_channel().await.unwrap();
    for _ in 0..6 {
        until("the job is there to be looked at", async || {
            let seen = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
            let Some(seen) = seen else { return false };
            seen.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
            true
        })
        .await;
    }
    looker.close(200, "done".into()).await.unwrap();

    let theirs = client(&node.url.replace("guest:guest", &format!("{user}:secret"))).await;
    let book = Arc::new(Book::default());
    let worker = work::<Few>(&theirs, &book);

    book.until_ran(1).await;
    let said = log::lines(&["ERROR", apart, &user, "let this user configure the queue"]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(owner.operator().unwrap().inspect(apart).await.is_err(), "it was declared");
    worker.stop().await;
    assert_eq!(ready(&owner, queue).await, 0);
    theirs.close().await;
    owner.close().await;
}
