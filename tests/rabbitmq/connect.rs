//! Connecting: what is refused at start, and in which words.

use std::time::{Duration, Instant};

use queue_core::broker::{ConsumeOptions, rabbitmq};
use queue_core::client::Client;
use queue_core::error::{Error, ErrorKind, chain};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::proxy::{Mode, Proxy};
use crate::support::{self, Node, queue, settings, soon, until};

on_each_node!(
    wrong_password_is_refused_at_once_and_names_the_user,
    missing_vhost_is_refused_at_once_and_named,
    question_that_nobody_waits_for_any_more_leaves_no_thread,
    questions_share_a_connection_that_is_kept_for_a_while,
    queue_for_which_no_channel_is_left_is_refused_with_the_remedy,
    next_host_takes_over_from_one_that_does_not_answer,
    pikas_options_are_understood,
);

async fn refusal(url: &str) -> Error {
    soon("a refusal", rabbitmq::connect(url, &settings())).await.expect_err("the node let us in")
}

async fn wrong_password_is_refused_at_once_and_names_the_user(node: Node) {
    // Many attempts are allowed, and none but the first makes sense: a server may lock the account.
    let url = node.with(|url| {
        url.password = "wrong-secret".into();
        url.query = "connection_attempts=1000&retry_delay=10".into();
    });

    let error = refusal(&url).await;

    assert_eq!(error.kind(), ErrorKind::Refused);
    let words = error.to_string();
    assert!(words.contains("user `guest`") && words.contains("password in the URL"), "{words}");
    assert!(!chain(&error).contains("wrong-secret"), "{}", chain(&error));
}

async fn missing_vhost_is_refused_at_once_and_named(node: Node) {
    let url = node.with(|url| {
        url.vhost = "no-such-vhost".into();
        url.query = "connection_attempts=1000&retry_delay=10".into();
    });

    let error = refusal(&url).await;

    assert_eq!(error.kind(), ErrorKind::Refused);
    let words = error.to_string();
    assert!(words.contains("vhost `no-such-vhost` does not exist"), "{words}");
    assert!(words.contains("rabbitmqctl add_vhost"), "{words}");
}

async fn next_host_takes_over_from_one_that_does_not_answer(node: Node) {
    // Bound and not listened to by anyone who answers: TCP connects, and then there is silence.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let url = node.with(|url| {
        url.host = format!("{silent},{}", url.host);
        url.query = "socket_timeout=1".into();
    });

    let broker = soon("the other host", rabbitmq::connect(&url, &settings())).await.unwrap();

    assert_eq!(broker.info().system, "rabbitmq");
    broker.close().await;
}

async fn pikas_options_are_understood(node: Node) {
    let url = node.with(|url| {
        url.query =
            "heartbeat=20&blocked_connection_timeout=60&connection_attempts=2&retry_delay=1&socket_timeout=5"
                .into();
    });

    let broker = soon("the connection", rabbitmq::connect(&url, &settings())).await.unwrap();

    broker.close().await;
}

#[tokio::test]
async fn server_that_is_not_there_is_tried_as_often_as_the_url_says() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let url = format!("amqp://127.0.0.1:{port}/?connection_attempts=3&retry_delay=0.1");
    let since = Instant::now();

    let error = refusal(&url).await;

    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    assert!(since.elapsed() >= Duration::from_millis(200), "{:?}", since.elapsed());
}

#[tokio::test]
async fn server_that_accepts_and_never_speaks_is_given_up_and_leaves_no_thread() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}/?socket_timeout=0.2&connection_attempts=1", silent.local_addr().unwrap());

    let mut words = String::new();
    for _ in 0..10 {
        words = refusal(&url).await.to_string();
    }

    assert!(words.contains("did not answer within 200ms"), "{words}");
    // lapin's thread sees the end of its socket, and ends: soon, but not at once. Other tests' threads come and go.
    crate::support::until("lapin's threads to end", async || lapin_threads() < 10).await;
}

async fn queue_for_which_no_channel_is_left_is_refused_with_the_remedy(node: Node) {
    let broker = crate::support::broker(&node.with(|url| url.query = "channel_max=3".to_owned())).await;
    let queue = queue(&broker).await;

    let mut consumers = Vec::new();
    let error = loop {
        // The router of delayed jobs takes a channel as well, early or late.
        assert!(consumers.len() <= 3, "the server does not keep to `channel_max`");
        match soon("an answer", broker.consume(ConsumeOptions::new(queue.clone()))).await {
            Ok(consumer) => consumers.push(consumer),
            Err(error) => break error,
        }
    };

    assert_eq!(error.kind(), ErrorKind::Config);
    let words = error.to_string();
    assert!(words.contains(&queue) && words.contains("channel_max"), "{words}");
    broker.operator().unwrap().delete(&queue).await.unwrap();
    broker.close().await;
}

/// Each question has a connection of its own, and a timeout around it drops that half-way.
async fn question_that_nobody_waits_for_any_more_leaves_no_thread(node: Node) {
    let proxy = Proxy::start(&node.host()).await;
    let url = node.with(|url| {
        url.host = proxy.address.to_string();
        url.query = "socket_timeout=600".to_owned();
    });
    let broker = crate::support::broker(&url).await;
    let before = lapin_threads();
    proxy.set(Mode::Mute);

    for _ in 0..30 {
        let asked =
            tokio::time::timeout(Duration::from_millis(50), broker.operator().unwrap().inspect("any")).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    // Other tests' threads come and go. The node would end them, too, but not before 10 s.
    let ended = crate::support::until("lapin's threads to end", async || lapin_threads() < before + 20);
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("they end at once");
    proxy.set(Mode::Open);
    broker.close().await;
}

fn lapin_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(name).filter(|name| name.starts_with("lapin")).count()
}

#[tokio::test]
async fn broker_that_is_away_is_named_with_the_remedies() {
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("amqp://guest:secret@127.0.0.1:{port}/?connection_attempts=1");

    let error = soon("a refusal", Client::connect(&url)).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Connection);
    assert_eq!(
        error.to_string(),
        format!(
            "RabbitMQ at 127.0.0.1:{port} cannot be reached: start it, or check host and port in the URL; \
             `Client::builder().wait_for_broker()` waits until it is there"
        )
    );
    assert!(!chain(&error).contains("secret"), "{}", chain(&error));
}

/// A host that only a person can mend says nothing of one that is restarting.
#[tokio::test]
async fn host_that_is_unfit_does_not_end_the_wait_for_another() {
    let absent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unfit = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url =
        format!("amqp://{absent},{}/?connection_attempts=3&retry_delay=0.1", unfit.local_addr().unwrap());
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = asked.clone();
    let _serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = unfit.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // With something unread a close is a reset, which may overtake the answer.
            let _ = stream.read_exact(&mut [0; 8]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });

    let error = refusal(&url).await;

    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.to_string().contains(&absent.to_string()), "{error}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[tokio::test]
async fn unusable_url_is_refused_with_the_part_that_is_wrong() {
    for (url, part) in [
        ("amqp://localhost:port/", "port"),
        ("amqp://localhost/?heartbeat=often", "heartbeat"),
        ("amqp://localhost/?hartbeat=10", "hartbeat"),
        ("amqp://[::1/", "[::1"),
        ("http://localhost/", "http"),
    ] {
        let error = refusal(url).await;

        assert_eq!(error.kind(), ErrorKind::Config, "{url}: {error}");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}

/// Who watches queues asks often, and each new connection is a login, and two lines in the node's log.
async fn questions_share_a_connection_that_is_kept_for_a_while(node: Node) {
    let proxy = Proxy::start(&node.host()).await;
    let broker = support::broker(&node.with(|url| url.host = proxy.address.to_string())).await;
    let queue = queue(&broker).await;
    until("the declaring connection is closed", async || proxy.open() == 1).await;

    for _ in 0..20 {
        assert_eq!(broker.operator().unwrap().inspect(&queue).await.unwrap().ready, 0);
        // A refusal costs its channel and no more.
        assert_eq!(
            broker.operator().unwrap().inspect("no such queue").await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(proxy.open(), 2);
    }
    proxy.cut();
    soon("an answer on a new connection", async {
        while broker.operator().unwrap().inspect(&queue).await.is_err() {}
    })
    .await;
    until("no more than before", async || proxy.open() == 2).await;
    until("the idle connection is closed", async || proxy.open() == 1).await;

    assert_eq!(broker.operator().unwrap().purge(&queue).await.unwrap(), 0);
    broker.close().await;
    until("all are closed", async || proxy.open() == 0).await;
}
