//! The config room through its public API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kitchen_sink;
mod reading;
