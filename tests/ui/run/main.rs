//! What is refused, and in which words: one mistake a file in `tests/ui`.

#[test]
fn mistakes_are_refused_at_their_token() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("*.rs");
    cases.compile_fail("without_sqlite/*.rs");
}
