//! The example `web`: a browser before it, and a broker behind it that may be away.

use std::time::{Duration, Instant};

use crate::support::http::{Answer, Asking, Server};
use crate::support::place::Place;
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers =
    Leftovers { queues: &["web.orders", "web.orders.dead"], exchanges: &["web.orders.dlx"] };

/// What the example allows itself for a request, and some for a loaded machine.
const BOUND: Duration = Duration::from_secs(5);

const ORDER: &str = r#"{"customer": "ada@example.com", "items": [{"name": "tea", "count": 2}]}"#;

on_each_broker!(
    order_is_queued_and_packed,
    what_is_no_order_is_refused_with_a_reason,
    worker_works_until_the_last_request_at_sigterm_is_answered,
);

/// Starts the example, and waits until it listens.
async fn start(url: &str) -> (Program, Server) {
    let mut program = Program::start_with("web", &[("LEVERET_URL", url), ("WEB_ADDRESS", "127.0.0.1:0")]);
    let lines = program.wait_for("listening on").await;
    let server = Server::in_line(lines.last().expect("a line"));
    (program, server)
}

#[track_caller]
fn assert_queued(answer: &Answer) {
    assert_eq!(answer.status, 202, "{answer:?}");
    let body = answer.json();
    assert_eq!((body["status"].as_str(), body["job"].as_str().map(str::len)), (Some("queued"), Some(36)));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

async fn order_is_queued_and_packed(t: &Setting) {
    let (mut program, server) = start(&t.url).await;

    assert_queued(&server.post("/orders", ORDER).await);

    program.wait_for("packed 2 pieces for ada@example.com").await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
    let ended = program.terminate().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

async fn what_is_no_order_is_refused_with_a_reason(t: &Setting) {
    let (program, server) = start(&t.url).await;
    let too_many = r#"{"customer": "a@b", "items": [{"name": "tea", "count": 101}]}"#;
    let too_long = format!(r#"{{"customer": "{}"}}"#, "x".repeat(3_000_000));
    let bodies = [
        ("", 400, "EOF"),
        ("{", 400, "EOF"),
        (r#"{"customer": "a@b"}"#, 422, "missing field `items`"),
        (r#"{"customer": "a@b", "items": [{"name": "tea", "count": -1}]}"#, 422, "items[0].count"),
        (r#"{"customer": "ada", "items": []}"#, 422, "`customer` is `ada`"),
        (r#"{"customer": "a@b", "items": []}"#, 422, "`items` is empty"),
        (too_many, 422, "`count` of `tea` is 101"),
        (&too_long, 413, "length limit"),
    ];

    for (body, status, words) in bodies {
        let answer = server.post("/orders", body).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == status && error.contains(words), "{body:.80}: {answer:?}");
    }
    let form = server.ask("POST /orders HTTP/1.1", "content-type: text/plain\r\n", ORDER).await;
    assert_eq!(form.status, 415);
    assert!(
        form.json()["error"].as_str().is_some_and(|error| error.contains("application/json")),
        "{form:?}"
    );
    assert_eq!(server.get("/orders").await.status, 405);
    assert_eq!(server.get("/").await.status, 404);

    let ended = program.terminate().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
}

/// Requests end before the worker, and the worker before the connection.
async fn worker_works_until_the_last_request_at_sigterm_is_answered(t: &Setting) {
    let (mut program, server) = start(&t.url).await;
    let order =
        |customer| format!(r#"{{"customer": "{customer}", "items": [{{"name": "tea", "count": 2}}]}}"#);
    let (adas, graces) = (order("ada@example.com"), order("grace@example.com"));
    let mut ada = begin(server, &adas).await;
    let mut grace = begin(server, &graces).await;

    program.signal().await;
    until_it_takes_no_more(server).await;

    grace.send(&graces).await;
    assert_queued(&grace.answer().await);
    // A request is open, so the worker must be.
    program.wait_for("packed 2 pieces for grace@example.com").await;

    ada.send(&adas).await;
    assert_queued(&ada.answer().await);
    let ended = program.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    if t.place != Place::Memory {
        // The worker may have got to it, or left it for the next. What it got to is settled.
        let is_packed = ended.stdout.contains("packed 2 pieces for ada@example.com");
        let left = t.foreign.get("web.orders").await.map(|order| String::from_utf8(order.body).unwrap());
        assert_eq!(left.is_none(), is_packed, "{left:?}: {}", ended.stderr);
        assert!(left.is_none_or(|left| left.contains("ada@example.com")), "it was not settled");
    }
}

/// Begins a request, and waits until its handler waits for the body.
async fn begin(server: Server, order: &str) -> Asking {
    let headers = "content-type: application/json\r\nexpect: 100-continue\r\n";
    let mut request = server.begin("POST /orders HTTP/1.1", headers, order.len()).await;
    request.until_it_is_read().await;
    request
}

/// Polls, since a server does not say that it takes no more.
async fn until_it_takes_no_more(server: Server) {
    while tokio::net::TcpStream::connect(server.0).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where the broker can be kept from the program.
mod away {
    use super::*;

    const LEFTOVERS: Leftovers = super::LEFTOVERS;

    on_each_node!(
        broker_that_is_away_is_503_until_it_is_back,
        broker_that_is_silent_is_503_until_it_speaks,
        broker_that_is_away_at_the_start_is_exit_code_1,
    );

    #[track_caller]
    fn assert_refused(answer: &Answer) {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("5"));
        let body = answer.json();
        let error = body["error"].as_str().unwrap_or_default();
        // What it does not tell the web is where the broker is.
        assert!(error.contains("queued; try again later") && !error.contains("127.0.0.1"), "{answer:?}");
        assert!(answer.took < BOUND, "{answer:?}");
    }

    /// Until it is ready. Polls, as a load balancer does.
    async fn until_ready(server: Server, status: u16) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let answer = server.get("/readyz").await;
            if answer.status == status {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn assert_works_again(mut program: Program, server: Server) {
        until_ready(server, 200).await;
        assert_queued(&server.post("/orders", ORDER).await);
        program.wait_for("packed 2 pieces for ada@example.com").await;
        let ended = program.terminate().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    async fn broker_that_is_away_is_503_until_it_is_back(t: &Setting) {
        let proxy = Proxy::before(&t.url).await;
        let (mut program, server) = start(&proxy.url).await;
        assert_queued(&server.post("/orders", ORDER).await);
        program.wait_for("packed").await;

        proxy.close();
        let (one, two) = tokio::join!(server.post("/orders", ORDER), server.post("/orders", ORDER));
        assert_refused(&one);
        assert_refused(&two);
        until_ready(server, 503).await;
        assert_eq!(server.get("/healthz").await.status, 200);
        assert_refused(&server.post("/orders", ORDER).await);

        proxy.open();
        assert_works_again(program, server).await;
    }

    /// No end of the connection says that the broker is away. Only time does.
    async fn broker_that_is_silent_is_503_until_it_speaks(t: &Setting) {
        let proxy = Proxy::before(&t.url).await;
        let (mut program, server) = start(&proxy.url).await;
        assert_queued(&server.post("/orders", ORDER).await);
        program.wait_for("packed").await;

        proxy.silence();
        assert_refused(&server.post("/orders", ORDER).await);
        assert_refused(&server.post("/orders", ORDER).await);

        proxy.open();
        assert_works_again(program, server).await;
    }

    async fn broker_that_is_away_at_the_start_is_exit_code_1(t: &Setting) {
        let proxy = Proxy::before(&t.url).await;
        proxy.close();

        let ended = Program::start_with("web", &[("LEVERET_URL", &proxy.url)]).end().await;

        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        assert!(
            ended.stderr.lines().last().is_some_and(|line| line.contains("127.0.0.1")),
            "{}",
            ended.stderr
        );
    }
}
