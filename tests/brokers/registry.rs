//! Who is there: workers and clients are listed with what they do, and those that fall silent are seen to be gone. RabbitMQ has
//! no store, and says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leveret::admin::{Member, RunningJob};
use leveret::store::{FORGOTTEN_AFTER, GONE_AFTER, Heartbeat, PROTOCOL, Store};
use leveret::{Client, ErrorKind, Task as _, Worker, task};
use tokio::sync::Semaphore;

use crate::support::{Fixture, until};

/// A task that waits until it may end.
#[task(queue = "contract.registry")]
async fn wait_for_it(gate: &Gate) {
    gate.0.acquire().await.expect("it is not closed").forget();
}

struct Gate(Semaphore);

/// The store, if the broker has one.
fn store(t: &Fixture) -> Option<Arc<dyn Store>> {
    t.client.store().ok()
}

/// The present moment, as any broker keeps it exactly.
fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A worker as another program might register it.
fn member(name: &str, last_seen: SystemTime) -> Member {
    let text = |text: &str| vec![text.to_owned(), "second \"quoted\"".to_owned()];
    Member::worker(name, text("emails"), text("send_email"), last_seen)
}

async fn names(client: &Client) -> Vec<String> {
    client.admin().workers().await.unwrap().into_iter().map(|worker| worker.name).collect()
}

pub(crate) async fn store_is_there_or_the_remedy_is_told(t: &Fixture) {
    let system = t.broker.info().system;

    let (store, workers) = (t.client.store(), t.client.admin().workers().await);
    let clients = t.client.admin().clients().await;

    if system != "rabbitmq" {
        assert!(store.is_ok() && workers.unwrap().is_empty() && clients.is_ok());
        return;
    }
    for error in [store.map(drop).unwrap_err(), workers.unwrap_err(), clients.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.to_string().contains("`rabbitmqctl list_consumers`"), "{error}");
    }
}

pub(crate) async fn store_has_one_id_for_all_clients_of_a_broker(t: &Fixture) {
    let Some(store) = store(t) else { return };

    let other = t.other_client().await.store().unwrap();

    assert_eq!(store.id(), other.id());
    assert!(store.id().len() > 20, "`{}` may not be the only one", store.id());
}

pub(crate) async fn worker_is_listed_with_what_it_runs_until_its_end(t: &Fixture) {
    if store(t).is_none() {
        return;
    }
    let gate = Arc::new(Gate(Semaphore::new(0)));
    let worker = Worker::new(&t.client).name("the worker").task::<WaitForIt>().concurrency(2);
    let worker = worker.shared(Arc::clone(&gate)).signals(false);
    let (before, handle) = (SystemTime::now(), worker.handle());
    let working = tokio::spawn(worker.run());
    let operator = t.other_client().await;
    let seen = async || operator.admin().workers().await.unwrap().pop();
    until("the worker is listed", async || seen().await.is_some()).await;

    let id = t.client.enqueue(WaitForIt {}).await.unwrap();
    until("its job is shown", async || seen().await.is_some_and(|worker| !worker.running.is_empty())).await;

    let worker = seen().await.unwrap();
    assert_eq!((&*worker.name, worker.process), ("the worker", std::process::id()));
    assert_eq!((&*worker.version, worker.protocol), (env!("CARGO_PKG_VERSION"), PROTOCOL));
    assert_eq!(
        (worker.queues, worker.tasks),
        (vec!["contract.registry".into()], vec![WaitForIt::NAME.into()])
    );
    assert!(!worker.is_gone && worker.last_seen >= worker.started_at);
    assert!(worker.started_at >= before - Duration::from_millis(1), "{:?}", worker.started_at);
    let [job] = &worker.running[..] else { panic!("{:?}", worker.running) };
    assert_eq!((&job.id, &*job.task, &*job.queue), (id.id(), WaitForIt::NAME, "contract.registry"));
    assert_eq!(worker.busy, 1);

    handle.shutdown();
    gate.0.add_permits(1);
    working.await.unwrap().unwrap();
    until("it is listed no more", async || seen().await.is_none()).await;
}

pub(crate) async fn client_is_listed_while_no_worker_uses_it(t: &Fixture) {
    if store(t).is_none() {
        return;
    }
    let client = t.other_client_with(|builder| builder.name("the web server")).await;
    let is_listed = async || {
        let clients = t.client.admin().clients().await.unwrap();
        clients.iter().any(|client| client.name == "the web server")
    };
    until("the client is listed", &is_listed).await;

    let gate = Gate(Semaphore::new(0));
    let worker = Worker::new(&client).task::<WaitForIt>().state(gate).signals(false);
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    until("its worker is listed in its place", async || !is_listed().await).await;
    until("it is listed itself", async || names(&t.client).await.len() == 1).await;

    handle.shutdown();
    working.await.unwrap().unwrap();
    until("the client is listed again", &is_listed).await;
    client.close().await;
    assert!(!is_listed().await, "it is closed");
}

pub(crate) async fn member_that_falls_silent_is_gone_and_then_forgotten(t: &Fixture) {
    let Some(store) = store(t) else { return };
    let (registry, now) = (store.registry(), now());
    let (forgotten, gone) = (member("forgotten", now - FORGOTTEN_AFTER), member("gone", now - GONE_AFTER));
    let alive = member("alive", now - FORGOTTEN_AFTER - GONE_AFTER);
    for member in [&gone, &alive, &forgotten] {
        registry.register(member).await.unwrap();
    }
    let entries = registry.members().await.unwrap();
    assert_eq!(
        entries.iter().map(|member| &*member.name).collect::<Vec<_>>(),
        ["gone", "alive", "forgotten"]
    );
    // Nobody has taken the others out yet, and they are not shown.
    assert_eq!(names(&t.client).await, ["gone"]);

    let mut heartbeat = Heartbeat::new(alive.id.as_str(), now);
    let job = RunningJob::new("17".into(), "send_email", "emails", now - Duration::from_secs(60));
    (heartbeat.busy, heartbeat.running) = (3, vec![job.clone()]);
    assert!(registry.heartbeat(&heartbeat).await.unwrap());

    let [silent, seen] = &t.client.admin().workers().await.unwrap()[..] else { panic!("two are left") };
    let (mut expected, mut expected_silent) = (alive, gone);
    (expected.last_seen, expected.busy, expected.running) = (now, 3, vec![job]);
    expected_silent.is_gone = true;
    assert_eq!((seen, silent), (&expected, &expected_silent));
    // It only slept, and has to register again.
    assert!(!registry.heartbeat(&Heartbeat::new(forgotten.id, now)).await.unwrap());
}

pub(crate) async fn member_that_registers_again_is_listed_once(t: &Fixture) {
    let Some(store) = store(t) else { return };
    let mut member = member("again", now() - Duration::from_secs(1));
    store.registry().register(&member).await.unwrap();

    member.last_seen = now();
    store.registry().register(&member).await.unwrap();

    assert_eq!(t.client.admin().workers().await.unwrap(), [member.clone()]);
    for _ in 0..2 {
        store.registry().leave(&member.id).await.unwrap();
    }
    assert!(names(&t.client).await.is_empty());
}

pub(crate) async fn closed_client_takes_its_members_along(t: &Fixture) {
    if store(t).is_none() {
        return;
    }
    let other = t.other_client().await;
    let (theirs, ours) = (other.store().unwrap(), t.client.store().unwrap());
    theirs.registry().register(&member("theirs", now())).await.unwrap();
    ours.registry().register(&member("ours", now())).await.unwrap();

    other.close().await;

    assert_eq!(names(&t.client).await, ["ours"]);
}

pub(crate) async fn closed_client_has_no_registry(t: &Fixture) {
    let Some(store) = store(t) else { return };
    t.client.close().await;

    let registered = store.registry().register(&member("late", now())).await;
    let heartbeat = store.registry().heartbeat(&Heartbeat::new("late", now())).await;
    let listed = t.client.admin().workers().await;

    for error in [registered.unwrap_err(), heartbeat.unwrap_err(), listed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
}
