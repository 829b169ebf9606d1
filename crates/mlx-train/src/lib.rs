//! Define and train your own models on Apple MLX.
//!
//! Start with [`prelude`], whose names the source of a model needs; the book in `docs/` tells the
//! rest. One module here is one room of the engine.

// The macros name this crate by its own name, also inside it.
extern crate self as mlx_train;

pub mod cli;
pub mod prelude;
pub mod progress;
pub mod run;
pub mod summary;

/// The arrays and operations that everything here is made of.
pub use mlx_train_core::__private::mlx_rs;
/// JSON and TOML values, which [`registry::ModelEntry::build`] takes as configs.
pub use mlx_train_core::__private::{serde_json, toml};
pub use mlx_train_core::{
    Array, Error, ModuleParameters, Result, assert_dtype, assert_same_shape, assert_shape,
    config::{self, ModelConfig},
    data, error, ffi, file, generate, loss, model, nn, optim, profile, register_model,
    registry::{self, ModelRegistry},
    rng, shape, store, train,
};

// Names the crate, so that the linker keeps its models and the registry finds them.
pub use mlx_train_models as models;

/// What the macros expand to; not part of the public API.
#[doc(hidden)]
pub use mlx_train_core::__private;

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
