//! The models of several real processes, over the ring on this machine, against those of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod layouts;
mod pipeline;
#[path = "../../../mlx-train-core/tests/distributed/ranks.rs"]
#[allow(dead_code)] // this binary uses a part of it
mod ranks;
#[path = "../../../mlx-train-core/tests/distributed/split_model.rs"]
mod split_model;
mod tensor;
#[path = "../../../mlx-train-core/tests/distributed/trained.rs"]
mod trained;
