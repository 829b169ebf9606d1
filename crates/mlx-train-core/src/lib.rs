//! The engine of mlx-train: one room for each thing that a user can name.
//!
//! Users depend on the facade `mlx-train`, which re-exports what is here. A room builds on rooms
//! above it in this list; only [`error`] lists every room's errors, and [`model`] names the trait of
//! [`generate`].

// The derive macros name this crate by its own name, also inside it.
extern crate self as mlx_train_core;

pub mod error;

pub mod file;
pub mod rng;

pub mod distributed;
mod exponential;
pub mod ffi;
pub mod graph;
mod integers;
pub mod kernels;
pub mod shape;

pub mod config;

pub mod bytes;

pub mod batch;
pub mod model;
pub mod registry;

pub mod profile;

pub mod checkpoint;
pub mod loss;
pub mod nn;

pub mod optim;

pub mod data;

pub mod generate;
pub mod store;

pub mod train;

pub mod estimate;
pub mod plan;

pub mod chart;

#[doc(hidden)]
pub mod parameters;

pub use distributed::Shard;
pub use error::{Error, Result};
pub use mlx_rs::{Array, module::ModuleParameters};
pub use mlx_train_derive::{ModuleParameters, Shard, register_model};
pub use shape::assert_shape;

/// What the macros of `mlx-train-derive` expand to; not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::config::private as config;
    pub use crate::distributed;
    pub use crate::parameters;
    pub use crate::registry::private as registry;
    pub use crate::shape::pattern as shape;
    pub use linkme;
    pub use mlx_rs;
    pub use serde_json;
    pub use toml;
}
