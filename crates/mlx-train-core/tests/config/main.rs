//! The config room through its public API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod describing;
mod files;
mod hostile;
mod kitchen_sink;
mod overrides;
mod reading;
mod round_trip;
mod sources;
