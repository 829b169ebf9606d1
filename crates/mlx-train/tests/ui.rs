//! What the macros accept, and the message for everything that they refuse.
//!
//! One mistake a file; a message is pinned in the `.stderr` file beside it. After a change, look at
//! the new messages and keep them with `TRYBUILD=overwrite cargo test -p mlx-train --test ui`.

#[test]
fn macros_accept_what_is_right_and_explain_what_is_wrong() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/*.rs");
}
