//! How a training step computes.

use crate::{config::ModelConfig, optim::Clip};

/// How a [`TrainStep`](super::TrainStep) computes: all but the model, the optimizer and the data.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// How long gradients may be; by default as long as they are.
    pub clip: Clip,
    /// The dtypes of the computation and of the state.
    pub precision: Precision,
    /// Whether the step is traced once and replayed.
    pub compile: CompileMode,
    /// How many combinations of input shapes and dtypes are traced; more are a mistake in most runs.
    pub max_traces: usize,
    /// Whether a step whose loss or gradient norm is not finite leaves parameters and state as they were.
    pub skip_non_finite: bool,
    /// The share of the averaged weights that a step keeps, if weights are averaged: 0.999, say.
    pub ema_decay: Option<f64>,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            clip: Clip::default(),
            precision: Precision::default(),
            compile: CompileMode::default(),
            max_traces: 8,
            skip_non_finite: true,
            ema_decay: None,
        }
    }
}

/// The dtypes of a training step. Loss and norms are f32 in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum Precision {
    /// The dtypes of the model, which are f32 unless it was built or loaded otherwise.
    #[default]
    F32,
    /// Computes in bf16 from f32 parameters, which are updated in f32, as is the optimizer's state.
    /// Source: Micikevicius et al., arXiv:1710.03740, section 3.1; bf16 needs no loss scale.
    Mixed,
    /// Keeps parameters, gradients and the optimizer's state in bf16, a third to a half of the memory; the
    /// arithmetic of the update is f32.
    Bf16 {
        /// Rounds up or down by chance, so that updates smaller than a bf16 digit are not lost.
        #[config(default = true)]
        stochastic_rounding: bool,
    },
}

/// Whether a training step is traced once by MLX's compiler and replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum CompileMode {
    /// On a GPU, where it gains a quarter; not on a CPU, where tracing takes long and gains little.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What a run does when the loss or the gradients of a step are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum NonFinite {
    /// Ends with an error that names the first parameter whose gradient is not finite.
    #[default]
    Stop,
    /// Goes on with the next batch; the step has changed neither parameters nor the optimizer's state.
    Skip,
    /// Goes back to the last checkpoint.
    Rollback,
}
