//! What is refused, and in which words: one mistake a file in `tests/ui`.

#[test]
fn mistakes_are_refused_at_their_token() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
