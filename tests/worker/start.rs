//! Mistakes of the program fail at start, in words that name the thing, the value and the remedy.

use std::sync::Arc;

use leveret::{Context, ErrorKind, Task, Worker};

use crate::support::{client, options, queue, refusal, task, work};

struct Mailer;

trait Store: Send + Sync {}
struct FakeStore;
impl Store for FakeStore {}

task!(SendEmail {} = "send_email", queue: queue("start.emails"), options: options(), needs: [Context, Mailer],
    async |call, _job| { let _: &Mailer = call.arg(); });
task!(SendSms {} = "send_sms", queue: queue("start.emails"), options: options(), needs: [], async |_call, _job| {});
task!(SaveOrder {} = "save_order", queue: queue("start.orders"), options: options(), needs: [dyn Store],
    async |call, _job| { let _: &dyn Store = call.arg(); });

mod elsewhere {
    use super::*;

    task!(SendEmail {} = "send_email", queue: queue("start.newsletters"), options: options(), needs: [],
        async |_call, _job| {});
    task!(Longer {} = "longer", queue: queue("start.orders").dlx("orders.dlx"), options: options(), needs: [],
        async |_call, _job| {});
    task!(Wider {} = "wider", queue: queue("start.orders").concurrency(8), options: options(), needs: [],
        async |_call, _job| {});
}

fn default_task() -> leveret::__private::TaskOptions {
    let mut options = options();
    options.is_default = true;
    options
}

task!(DefaultOne {} = "default_one", queue: queue("start.default"), options: default_task(), needs: [],
    async |_call, _job| {});
task!(DefaultTwo {} = "default_two", queue: queue("start.default"), options: default_task(), needs: [],
    async |_call, _job| {});
task!(NotDefault {} = "not_default", queue: queue("start.default"), options: options(), needs: [],
    async |_call, _job| {});

task!(NeverCrashes {} = "never_crashes", queue: queue("start.never").crash_limit(0), options: options(), needs: [],
    async |_call, _job| {});

fn known_as(aliases: &'static [&'static str]) -> leveret::__private::TaskOptions {
    let mut options = options();
    options.aliases = aliases;
    options
}

task!(Post {} = "post", queue: queue("start.post"), options: known_as(&["send_sms", "send_letter"]), needs: [],
    async |_call, _job| {});
task!(Parcel {} = "parcel", queue: queue("start.parcels"), options: known_as(&["send_letter"]), needs: [],
    async |_call, _job| {});

#[tokio::test]
async fn alias_that_is_another_tasks_name_or_alias() {
    let (client, _clock) = client();

    let name = refusal(Worker::new(&client).task::<Post>().task::<SendSms>()).await;
    let alias = refusal(Worker::new(&client).task::<Post>().task::<Parcel>()).await;

    let remedy = "a job of that name can be run by one of them only; take it out of one's `aliases`, or narrow the worker \
                  to one of them with `.queues([..])` or `.task::<T>()`";
    assert_eq!(
        name,
        format!(
            "`send_sms` is the name of task `worker::start::SendSms` and an alias of `worker::start::Post`: {remedy}"
        )
    );
    assert_eq!(
        alias,
        format!(
            "`send_letter` is an alias of task `worker::start::Parcel` and an alias of `worker::start::Post`: {remedy}"
        )
    );
}

#[tokio::test]
async fn only_an_alias() {
    let (client, _clock) = client();

    let words = refusal(Worker::new(&client).task::<Parcel>().only(["send_letter"])).await;

    assert_eq!(words, "`.only(..)` names `send_letter`, which is an alias: write `parcel`, the task's name");
}

#[tokio::test]
async fn no_tasks() {
    let (client, _clock) = client();

    // No task of this test program is registered.
    let words = refusal(Worker::new(&client)).await;

    assert_eq!(
        words,
        "this program contains no tasks. A library of tasks that is not mentioned is not linked: write \
         `use my_tasks as _;` with its name in `main.rs`"
    );
}

#[tokio::test]
async fn missing_state() {
    let (client, _clock) = client();

    let words = refusal(Worker::new(&client).task::<SendEmail>()).await;

    assert_eq!(
        words,
        "task `send_email` takes `&worker::start::Mailer`, which this worker lacks: give it with \
         `.state(..)`, a value of type `worker::start::Mailer`"
    );
}

#[tokio::test]
async fn missing_trait_object() {
    let (client, _clock) = client();

    let words = refusal(Worker::new(&client).task::<SaveOrder>()).await;

    assert_eq!(
        words,
        "task `save_order` takes `&dyn worker::start::Store`, which this worker lacks: give it with \
         `.shared::<dyn worker::start::Store>(Arc::new(..))`"
    );
}

#[tokio::test]
async fn state_by_value_and_as_a_trait_object_is_found() {
    let (client, _clock) = client();
    client.enqueue(SendEmail {}).await.unwrap();
    client.enqueue(SaveOrder {}).await.unwrap();

    let worker = Worker::new(&client).task::<SendEmail>().task::<SaveOrder>();
    let summary = work(worker.state(Mailer).shared::<dyn Store>(Arc::new(FakeStore))).await;

    assert_eq!(summary.succeeded, 2);
}

#[tokio::test]
async fn two_values_of_one_type() {
    let (client, _clock) = client();

    let words = refusal(Worker::new(&client).task::<SendEmail>().state(Mailer).state(Mailer)).await;

    assert_eq!(
        words,
        "this worker was given two values of type `worker::start::Mailer`; `&worker::start::Mailer` can only be one \
         of them"
    );
}

#[tokio::test]
async fn two_tasks_of_one_name() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SendEmail>().task::<elsewhere::SendEmail>().state(Mailer);

    let words = refusal(worker()).await;

    assert_eq!(
        words,
        "two tasks are named `send_email`: `worker::start::SendEmail` and `worker::start::elsewhere::SendEmail`; \
         rename one with `name = \"..\"`, or narrow the worker to one of them with `.queues([..])` or `.task::<T>()`"
    );
    work(worker().queues(["start.newsletters"])).await;
}

#[tokio::test]
async fn two_tasks_that_disagree_about_their_queue() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SaveOrder>().shared::<dyn Store>(Arc::new(FakeStore));

    assert_eq!(
        refusal(worker().task::<elsewhere::Longer>()).await,
        "tasks `worker::start::elsewhere::Longer` and `worker::start::SaveOrder` disagree about queue `start.orders`: \
         its `dlx` is \"orders.dlx\" in the first and not set in the second; give both the same queue options"
    );
    assert_eq!(
        refusal(worker().task::<elsewhere::Wider>()).await,
        "tasks `worker::start::SaveOrder` and `worker::start::elsewhere::Wider` disagree about queue `start.orders`: \
         its `concurrency` is not set in the first and 8 in the second; give both the same queue options"
    );
}

#[tokio::test]
async fn two_default_tasks() {
    let (client, _clock) = client();

    let words = refusal(Worker::new(&client).task::<DefaultOne>().task::<DefaultTwo>()).await;

    assert_eq!(
        words,
        "tasks `worker::start::DefaultOne` and `worker::start::DefaultTwo` are both `default` in queue \
         `start.default`: only one can take the messages that name no task"
    );
}

#[tokio::test]
async fn default_task_takes_messages_without_type() {
    use crate::support::{message, publish, start};
    let (client, _clock) = client();
    publish(&client, DefaultOne::queue(), message(None, "{}")).await;
    let mut worker = start(Worker::new(&client).task::<NotDefault>().task::<DefaultOne>());

    assert_eq!(worker.succeeded().await.task, "default_one");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn leaving_out_a_task_of_a_consumed_queue() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SendEmail>().task::<SendSms>().state(Mailer);

    let words = refusal(worker().only([SendEmail::NAME])).await;

    assert_eq!(
        words,
        "task `send_sms` of queue `start.emails` is left out, but the queue is consumed: its jobs would come to this \
         worker; add `send_sms` to `.only(..)`, or give it a queue of its own"
    );
    work(worker().only([SendEmail::NAME, SendSms::NAME])).await;
}

#[tokio::test]
async fn narrowing_to_what_does_not_exist() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SendEmail>().task::<SaveOrder>();

    assert_eq!(
        refusal(worker().only(["send_mail"])).await,
        "`.only(..)` names task `send_mail`, which does not exist; there are `save_order`, `send_email`"
    );
    assert_eq!(
        refusal(worker().queues(["emails"])).await,
        "`.queues(..)` names queue `emails`, which no task has; there are `start.emails`, `start.orders`"
    );
    assert_eq!(
        refusal(worker().only(["save_order"]).queues(["start.emails"])).await,
        "`.only(..)` and `.queues(..)` together leave no task to run; drop one of them"
    );
}

#[tokio::test]
async fn concurrency_that_cannot_be() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SendSms>();

    assert_eq!(
        refusal(worker().concurrency(0)).await,
        "the concurrency of queue `start.emails` is 0; it must be at least 1"
    );
    assert_eq!(
        refusal(worker().queue_concurrency("emails", 2)).await,
        "`.queue_concurrency(..)` names queue `emails`, which this worker does not consume; it consumes `start.emails`"
    );
}

#[tokio::test]
async fn crash_limit_that_cannot_be() {
    let (client, _clock) = client();
    let worker = || Worker::new(&client).task::<SendSms>();

    assert_eq!(
        refusal(worker().crash_limit(0)).await,
        "the crash limit of this worker is 0; it must be from 1 to 100"
    );
    assert_eq!(
        refusal(worker().crash_limit(101)).await,
        "the crash limit of this worker is 101; it must be from 1 to 100"
    );
    assert_eq!(
        refusal(Worker::new(&client).task::<NeverCrashes>()).await,
        "the crash limit of queue `start.never` is 0; it must be from 1 to 100"
    );
    work(worker().crash_limit(100)).await;
}

#[tokio::test]
async fn every_mistake_is_one_of_configuration() {
    let (client, _clock) = client();

    let error = Worker::new(&client).signals(false).run().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Config);
}
