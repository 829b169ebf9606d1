//! Define and train your own models on Apple MLX.

extern crate self as mlx_train;

pub use mlx_train_core::__private::mlx_rs;
pub use mlx_train_core::{
    Array, Error, ModuleParameters, Result, assert_dtype, assert_same_shape, assert_shape, config,
    config::ModelConfig,
    model, register_model,
    registry::{self, ModelRegistry},
};

// Names the crate, so that the linker keeps its models and the registry finds them.
pub use mlx_train_models as models;

/// What the macros expand to; not part of the public API.
#[doc(hidden)]
pub use mlx_train_core::__private;

/// Everything that the source of a model needs.
pub mod prelude {
    pub use super::mlx_rs::module::Param;
    pub use mlx_train_core::{
        Array, Error, ModuleParameters, Result, assert_shape,
        config::{ModelConfig, Preset},
        model::{BaseModel, FromConfig, Loss},
        register_model,
        registry::ModelRegistry,
    };
}
