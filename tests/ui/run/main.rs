//! What is refused, and in which words: one mistake a file in `tests/ui`.

#[test]
fn mistakes_are_refused_at_their_token() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    // With it, there is nothing to refuse: plain `cargo test` tries these.
    #[cfg(not(feature = "sqlite-system"))]
    cases.compile_fail("tests/ui/without_sqlite/*.rs");
}
