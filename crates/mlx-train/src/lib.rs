//! Define and train your own models on Apple MLX.
//!
//! A model is a config, a struct of layers and two functions. It has a name, by which it is built
//! from defaults, a file or overrides:
//!
//! ```
//! use mlx_train::prelude::*;
//!
//! /// Sizes of a plane.
//! #[derive(Debug, Clone, ModelConfig)]
//! struct PlaneConfig {
//!     /// How many numbers an input has.
//!     #[config(default = 3, range = 1..)]
//!     num_inputs: i32,
//! }
//!
//! /// A weighted sum of the inputs.
//! #[register_model("plane")]
//! #[derive(Debug, ModuleParameters)]
//! struct Plane {
//!     #[param]
//!     sum: Linear,
//! }
//!
//! impl FromConfig for Plane {
//!     type Config = PlaneConfig;
//!     fn from_config(config: &PlaneConfig) -> Result<Self> {
//!         Ok(Self { sum: Linear::new(config.num_inputs, 1)? })
//!     }
//! }
//!
//! impl BaseModel for Plane {
//!     fn forward(&mut self, x: &Array) -> Result<Array> {
//!         assert_shape!(x, [_, _]);
//!         Ok(self.sum.forward(x)?) // (B, 1)
//!     }
//!     fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
//!         loss::mse(&self.forward(x)?, y)
//!     }
//! }
//!
//! fn main() -> Result<()> {
//!     let plane = ModelRegistry::get_model("plane")?;
//!     let mut model = rng::scope(&rng::key(42)?, || plane.build(["num_inputs=2"]))?;
//!     let x = Array::from_slice(&[0.0_f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], &[4, 2]);
//!     let y = Array::from_slice(&[1.0_f32, 3.0, 2.0, 4.0], &[4, 1]); // 1 + a + 2 b
//!     let config = TrainConfig { steps: 300, batch_size: 4, learning_rate: 0.1, ..Default::default() };
//!     let trained = Trainer::new(&mut model, config)?.run(InMemory::new(x, y)?)?;
//!     assert!(trained.history.training.last().is_some_and(|point| point.loss < 0.01));
//!     Ok(())
//! }
//! ```
//!
//! With `mlx_train::cli::main()` as its `main`, the same program is a command line that lists,
//! describes, configures and trains the model.
//!
//! # Where things are
//!
//! | module | holds |
//! |---|---|
//! | [`prelude`] | the names that the source of a model needs |
//! | [`model`], [`registry`] | [`BaseModel`](model::BaseModel), [`FromConfig`](model::FromConfig), [`Loss`](model::Loss); models by name |
//! | [`config`] | [`ModelConfig`]: files, overrides, ranges, presets, JSON Schema |
//! | [`shape`] | [`assert_shape!`] |
//! | [`nn`], [`loss`] | layers and losses that mlx-rs lacks or gets wrong for training |
//! | [`mlx_rs`] | arrays, operations and every other layer |
//! | [`data`], [`optim`], [`train`] | datasets, optimizers and schedules, the [`Trainer`](train::Trainer) |
//! | [`checkpoint`] | gradient checkpointing: blocks that compute twice in place of keeping activations |
//! | [`rng`] | explicit random keys |
//! | [`store`], [`generate`] | weights in safetensors; text |
//! | [`run`], [`progress`], [`summary`] | a run's folder with its report, its bar, its table |
//! | [`chart`], [`tensorboard`], [`profile`] | pictures, event files; memory, time and arithmetic |
//! | [`models`] | the reference models `mlp` and `transformer` |
//! | [`cli`] | the command line |
//! | [`error`], [`ffi`], [`file`](mod@file), [`bytes`] | the one error; transforms of functions; whole files; amounts of memory |
//! | [`distributed`], [`launch`] | processes that compute together; starting them and ending them together |
//! | [`graph`], [`estimate`] | what a computation consists of, and how much memory a step needs, before it is computed |
//! | [`plan`] | which way to split a step over devices is the fastest that fits |
//!
//! Everything that can fail returns [`Result`], whose [`Error`] says the value, the place and the
//! fix. The book in the repository's `docs` folder tells the rest.

// The macros name this crate by its own name, also inside it.
extern crate self as mlx_train;

pub mod cli;
mod clock;
mod growing;
pub mod launch;
pub mod prelude;
pub mod progress;
pub mod run;
pub mod summary;
pub mod tensorboard;

/// The arrays and operations that everything here is made of.
pub use mlx_train_core::__private::mlx_rs;
/// JSON and TOML values, which [`registry::ModelEntry::build`] takes as configs.
pub use mlx_train_core::__private::{serde_json, toml};
pub use mlx_train_core::{
    Array, Error, ModuleParameters, Result, Shard, assert_dtype, assert_same_shape, assert_shape,
    bytes, chart, checkpoint,
    config::{self, ModelConfig},
    data, distributed, error, estimate, ffi, file, generate, graph, kernels, loss, model, nn,
    optim, plan, profile, register_model,
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
