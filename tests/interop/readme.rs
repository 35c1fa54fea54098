//! What the README shows is code that compiles: each Rust block stands, word for word, in a file that does. A block that
//! leaves something out says so with `…`, and is no code to paste.

const README: &str = include_str!("../../README.md");
const FILES: [&str; 2] =
    [include_str!("../../examples/email.rs"), include_str!("../../examples/tasks/tests/sign_up.rs")];

#[test]
fn every_rust_block_stands_in_a_file_that_compiles() {
    let blocks = README.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (sketches, programs): (Vec<_>, Vec<_>) = blocks.partition(|block| block.contains('…'));

    assert!(programs.len() >= FILES.len(), "{} programs and {} sketches", programs.len(), sketches.len());
    for program in programs {
        assert!(FILES.iter().any(|file| file.contains(program)), "in no file:\n{program}");
    }
}
