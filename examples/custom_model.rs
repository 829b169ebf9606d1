//! A model of your own.
fn main() {}
