//! One module a subcommand.

pub mod bench;
pub mod check_macos;
pub mod demo;
pub mod docs;
pub mod doctor;
pub mod setup;
pub mod test;
