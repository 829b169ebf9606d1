//! Bytes from anywhere, read as each file of a checkpoint.
//!
//! `cargo +nightly fuzz run readers -- -rss_limit_mb=2048 -max_len=65536`; a crash, a hang or memory
//! over the limit is a bug. `crates/mlx-train-core/tests/checkpoint/readers.rs` runs the same readers
//! in every `cargo test`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    mlx_train_core::store::untrusted::read_all(bytes);
});
