//! What the README shows is code that compiles: each paragraph of a Rust block stands in a file that does, word for word
//! but for its indentation. A block that leaves something out says so with `…`, and is no code to paste.

const README: &str = include_str!("../../README.md");
const FILES: [&str; 3] = [
    include_str!("../../examples/email.rs"),
    include_str!("../../examples/tasks/tests/sign_up.rs"),
    include_str!("python/readme.rs"),
];

#[test]
fn every_rust_block_stands_in_a_file_that_compiles() {
    let blocks = README.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (sketches, programs): (Vec<_>, Vec<_>) = blocks.partition(|block| block.contains('…'));

    assert!(programs.len() >= FILES.len(), "{} programs and {} sketches", programs.len(), sketches.len());
    let files = FILES.map(flush);
    for program in programs {
        for paragraph in program.split("\n\n") {
            let paragraph = flush(paragraph);
            assert!(files.iter().any(|file| file.contains(&paragraph)), "in no file:\n{paragraph}");
        }
    }
}

/// Without indentation.
fn flush(code: &str) -> String {
    code.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}
