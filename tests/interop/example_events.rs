//! The examples of exchanges, on every broker.

use crate::support::program::Program;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "order.events.email",
        "order.events.email.dead",
        "order.events.stock",
        "order.events.stock.dead",
        "order.events.invoice",
        "order.events.invoice.dead",
        "order.events.statistics",
        "order.events.statistics.dead",
        "order.changes.archive",
        "order.changes.archive.dead",
        "order.changes.europe",
        "order.changes.europe.dead",
        "order.changes.warehouse",
        "order.changes.warehouse.dead",
    ],
    exchanges: &["order.events", "order.events.dlx", "order.changes"],
};

on_each_broker!(fanout_gives_each_service_its_copy, topics_choose_by_patterns);

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

async fn fanout_gives_each_service_its_copy(t: &Setting) {
    let ended = Program::run("fanout", &t.url).await;

    ended.assert_clean();
    let expected = "\
7 succeeded, 0 retried, 1 dead, 0 released
dead letter: order 1 costs nothing
email: dear Ada, we have your order 1
email: dear Ada, we have your order 2
invoice: order 2 costs 250 cents
order 1 was placed
order 2 was placed
statistics: 250 cents were sold
stock: goods of order 1 are reserved
stock: goods of order 2 are reserved";
    let lines = sorted(&ended.stdout);
    // The free order is counted first or last.
    let counted = lines.iter().filter(|line| line.starts_with("statistics: ")).count();
    assert_eq!(counted, 2, "{}", ended.stdout);
    let mut lines: Vec<_> =
        lines.into_iter().filter(|line| *line != "statistics: 0 cents were sold").collect();
    lines.dedup();
    assert_eq!(lines.join("\n"), expected);
}

async fn topics_choose_by_patterns(t: &Setting) {
    let ended = Program::run("topics", &t.url).await;

    ended.assert_clean();
    let expected = r#"8 succeeded, 0 retried, 0 dead, 0 released
archive: order.asia.placed {"order":2,"region":"asia","status":"placed"}
archive: order.asia.shipped {"order":2,"region":"asia","status":"shipped"}
archive: order.europe.placed {"order":1,"region":"europe","status":"placed"}
archive: order.europe.shipped {"order":1,"region":"europe","status":"shipped"}
office in Europe: order 1 was placed
office in Europe: order 1 was shipped
warehouse: pack order 1 (order.europe.placed)
warehouse: pack order 2 (order.asia.placed)"#;
    assert_eq!(sorted(&ended.stdout).join("\n"), expected);
}

/// Each service as processes of its own, where there is somebody else to publish.
mod alone {
    use super::*;

    const LEFTOVERS: Leftovers = super::LEFTOVERS;

    on_each_shared_broker!(processes_of_one_fanout_service_share_its_copies);

    async fn processes_of_one_fanout_service_share_its_copies(t: &Setting) {
        let start = async |words| {
            let mut program = Program::start(words, &t.url);
            // Its queue is there, and bound.
            program.wait_for("waiting for events").await;
            program
        };
        let mut stock = start("fanout work order.events.stock").await;
        let mut email = start("fanout work order.events.email").await;
        let mut also_email = start("fanout work order.events.email").await;

        Program::run("fanout publish 4", &t.url).await.assert_clean();

        let (mut reserved, mut confirmed) = (Vec::new(), Vec::new());
        while reserved.len() < 4 || confirmed.len() < 4 {
            tokio::select! {
                lines = stock.wait_for("are reserved"), if reserved.len() < 4 => reserved.extend(lines),
                lines = email.wait_for("dear Ada") => confirmed.extend(lines),
                lines = also_email.wait_for("dear Ada") => confirmed.extend(lines),
            }
        }
        reserved.sort();
        confirmed.sort();
        assert_eq!(reserved, [1, 2, 3, 4].map(|order| format!("stock: goods of order {order} are reserved")));
        let words = |order| format!("email: dear Ada, we have your order {order}");
        assert_eq!(confirmed, [1, 2, 3, 4].map(words));
        for program in [stock, email, also_email] {
            program.terminate().await.assert_clean();
        }
    }
}
