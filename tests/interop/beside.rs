//! The guide shows Python and Rust beside each other: its Rust is what `python/beside.rs` runs against that Python, word for
//! word but for its indentation and the hidden lines that make it a doc test.

const PAGE: &str = include_str!("../../docs/from-others.md");
const PROGRAM: &str = include_str!("python/beside.rs");

/// The section of the page whose blocks are run.
pub(crate) fn section() -> &'static str {
    let (_, section) = PAGE.split_once("\n## Beside Pika\n").expect("the page has the section");
    section.split("\n## ").next().expect("it has text")
}

#[test]
fn every_rust_block_beside_pika_is_what_the_test_runs() {
    let blocks: Vec<_> =
        section().split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();

    assert_eq!(blocks.len(), 5, "one of each pattern: {blocks:#?}");
    let program = flush(PROGRAM);
    for block in blocks {
        let shown: String =
            block.lines().filter(|line| !line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
        for paragraph in shown.split("\n\n") {
            let paragraph = flush(paragraph);
            assert!(program.contains(&paragraph), "in no test:\n{paragraph}");
        }
    }
}

/// Without indentation.
fn flush(code: &str) -> String {
    code.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}
