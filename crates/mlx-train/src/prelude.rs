//! Everything that the source of a model needs: `use mlx_train::prelude::*;`.

pub use crate::{
    Array, Error, ModuleParameters, Result, Shard, assert_shape,
    config::{ModelConfig, Preset},
    data::{Batch, Dataset, InMemory, Text},
    loss::{self, CrossEntropy},
    mlx_rs::{
        Dtype,
        fast::{self, ScaledDotProductAttentionMask::Causal},
        module::{Module, Param},
        ops::{self, indexing::TryIndexOp},
    },
    model::{BaseModel, FromConfig, Loss},
    nn::{self, Dropout, Embedding, LayerNorm, Linear, RmsNorm, Stack},
    progress::Progress,
    register_model,
    registry::ModelRegistry,
    rng,
    train::{TrainConfig, Trainer},
};
