//! The example `orders`: a shop from its web front to its dead letters.

use serde_json::{Value, json};

use crate::support::http::{Answer, Server};
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "shop.prices",
        "shop.prices.dead",
        "shop.charges",
        "shop.charges.dead",
        "shop.receipts",
        "shop.receipts.dead",
        "shop.stock",
        "shop.stock.dead",
        "shop.tax.europe",
        "shop.tax.europe.dead",
    ],
    exchanges: &["shop.dlx", "shop.events"],
};

on_each_broker!(
    paid_order_is_known_to_all_who_listen,
    order_that_cannot_be_is_refused_in_the_words_of_who_knows,
    refused_payment_is_a_dead_letter_until_it_is_replayed,
);

async fn start(url: &str) -> (Program, Server) {
    let mut program = Program::start_with("orders", &[("LEVERET_URL", url), ("WEB_ADDRESS", "127.0.0.1:0")]);
    let lines = program.wait_for("listening on").await;
    let server = Server::in_line(lines.last().expect("a line"));
    (program, server)
}

async fn order(server: Server, region: &str, items: Value) -> Answer {
    let order = json!({ "customer": "ada@example.com", "region": region, "items": items });
    server.post("/orders", &order.to_string()).await
}

/// The lines up to and including all that contain one of these words, whatever their order.
async fn wait_for_all(program: &mut Program, words: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for words in words {
        if !lines.iter().any(|line| line.contains(words)) {
            lines.extend(program.wait_for(words).await);
        }
    }
    lines
}

async fn paid_order_is_known_to_all_who_listen(t: &Setting) {
    let (mut program, server) = start(&t.url).await;

    let answer = order(server, "europe", json!([{ "name": "tea", "count": 2 }])).await;

    assert_eq!(answer.status, 202, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["cents"], &body["status"]), (&700.into(), &"queued".into()));
    let reserved = format!("stock: reserved for order {}", body["order"].as_str().expect("an id"));
    let receipt = "receipt: 700 cents, thank you ada@example.com";
    wait_for_all(&mut program, &["bank: charged 700 cents", receipt, &reserved, "tax: 140 cents of 700"])
        .await;

    // Asia's orders are none of Europe's tax office's business.
    assert_eq!(order(server, "asia", json!([{ "name": "cake", "count": 1 }])).await.status, 202);
    let mut lines = wait_for_all(&mut program, &["receipt: 1500 cents", "stock: reserved"]).await;
    let ended = program.terminate().await;
    lines.extend(ended.stdout.lines().map(str::to_owned));
    assert!(!lines.iter().any(|line| line.contains("tax")), "{lines:#?}");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

async fn order_that_cannot_be_is_refused_in_the_words_of_who_knows(t: &Setting) {
    let (program, server) = start(&t.url).await;
    let one = |name: &str, count: u64| json!([{ "name": name, "count": count }]);
    let orders = [
        ("europe", one("coffee", 1), "there is no `coffee` in this shop"),
        ("europe", json!([]), "`items` is empty: order at least one"),
        ("europe", one("cake", u64::MAX), "nobody can pay that much"),
        ("eu.west", one("tea", 1), "`region` is `eu.west`: it must be one word of small letters"),
    ];

    for (region, items, words) in orders {
        let answer = order(server, region, items).await;
        assert_eq!((answer.status, &answer.json()["error"]), (422, &words.into()), "{answer:?}");
    }
    assert_eq!(server.post("/orders", "{").await.status, 400);

    program.terminate().await.assert_clean();
}

async fn refused_payment_is_a_dead_letter_until_it_is_replayed(t: &Setting) {
    let (mut program, server) = start(&t.url).await;

    let placed = order(server, "europe", json!([{ "name": "cake", "count": 9 }])).await;
    assert_eq!(placed.status, 202, "{placed:?}");
    let letters = loop {
        // Nothing tells the web that a job is dead, so whoever wants to know asks.
        let letters = server.get("/dead-letters").await.json();
        if letters != json!([]) {
            break letters;
        }
    };
    let letter = &letters[0];
    assert_eq!(letter["order"], placed.json()["order"]);
    assert_eq!(letter["error"], "the bank charges at most 10000 cents, and this order costs 13500");
    assert_eq!(letter["payload"]["customer"], "ada@example.com");

    assert_eq!(server.ask("PUT /bank/limit/50000 HTTP/1.1", "", "").await.status, 204);
    let replayed = server.ask("POST /dead-letters/replay HTTP/1.1", "", "").await;

    assert_eq!(replayed.json(), json!({ "replayed": 1 }));
    wait_for_all(&mut program, &["bank: charged 13500 cents", "receipt: 13500 cents", "tax: 2700 cents"])
        .await;
    assert_eq!(server.get("/dead-letters").await.json(), json!([]));
    program.terminate().await.assert_clean();
}

/// For other programs, and without a broker.
#[tokio::test]
async fn asyncapi_prints_a_document_that_the_official_schema_allows() {
    let ended = Program::run("orders asyncapi", "amqp://127.0.0.1:1/").await;

    ended.assert_clean();
    let document: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let official: Value = serde_json::from_str(include_str!("../schema/asyncapi-3.0.0.json")).unwrap();
    let id = official["$id"].as_str().unwrap().to_owned();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource(&id, official).unwrap();
    let schema = compiler.compile(&id, &mut schemas).unwrap();
    schemas.validate(&document, schema).unwrap_or_else(|error| panic!("{error:#}"));
    let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&document["operations"]),
        [
            "enqueue.charge",
            "enqueue.price",
            "publish.OrderPaid",
            "receive.note_tax",
            "receive.reserve",
            "receive.send_receipt",
            "run.charge",
            "run.price",
        ]
    );
    let queues =
        ["prices", "charges", "stock", "receipts", "tax.europe"].map(|queue| format!("shop.{queue}"));
    for channel in queues.iter().flat_map(|queue| [queue.clone(), format!("{queue}.dead")]) {
        assert!(document["channels"].get(&channel).is_some(), "`{channel}` is not in {document:#}");
    }
    assert_eq!(names(&document["components"]["schemas"]), ["Item", "OrderPaid"]);
}

/// Where the broker can be kept from the program.
mod away {
    use super::*;

    const LEFTOVERS: Leftovers = super::LEFTOVERS;

    on_each_node!(shop_without_a_broker_says_when_to_come_back);

    async fn shop_without_a_broker_says_when_to_come_back(t: &Setting) {
        let proxy = Proxy::before(&t.url).await;
        let (mut program, server) = start(&proxy.url).await;
        let tea = json!([{ "name": "tea", "count": 1 }]);
        let reserved = |answer: &Answer| {
            assert_eq!(answer.status, 202, "{answer:?}");
            format!("stock: reserved for order {}", answer.json()["order"].as_str().expect("an id"))
        };
        let first = reserved(&order(server, "europe", tea.clone()).await);
        let mut lines = program.wait_for("bank: charged").await;

        proxy.close();
        for _ in 0..2 {
            let answer = order(server, "europe", tea.clone()).await;
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
            assert!(answer.took < std::time::Duration::from_secs(6), "{answer:?}");
        }
        assert_eq!(server.get("/dead-letters").await.status, 503);

        proxy.open();
        let last = loop {
            let answer = order(server, "europe", tea.clone()).await;
            if answer.status == 202 {
                break reserved(&answer);
            }
        };
        // Also the first, which is retried after a while if the broker went away under it: what is delayed would outlive this
        // test, and be done in the next.
        for reserved in [first, last] {
            if !lines.iter().any(|line| line.contains(&reserved)) {
                lines.extend(program.wait_for(&reserved).await);
            }
        }
        let ended = program.terminate().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}
