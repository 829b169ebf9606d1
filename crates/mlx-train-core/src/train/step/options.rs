//! How a training step computes.

use super::{Precision, traced::Limit};
use crate::{
    Result,
    checkpoint::CheckpointPolicy,
    config::ModelConfig,
    distributed::{PipelineError, PipelineOptions},
    ffi,
    optim::Clip,
    train::TrainError,
};
use mlx_rs::Dtype;

/// How a [`TrainStep`](super::TrainStep) computes: all but the model, the optimizer and the data.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// How long gradients may be; by default as long as they are.
    pub clip: Clip,
    /// The dtypes of the computation and of the state.
    pub precision: Precision,
    /// Whether the step is traced once and replayed.
    pub compile: CompileMode,
    /// How many kinds of batches, by shape and dtype, are traced. Another kind is an error where all steps are to
    /// be compiled, and in [`CompileMode::Auto`] runs without a trace, with a warning in the output.
    pub max_traces: usize,
    /// What gradients travel as between ranks that share a batch.
    pub communication: Communication,
    /// Which parts of the model forget what they computed, and compute it again for the gradient.
    pub gradient_checkpointing: CheckpointPolicy,
    /// Whether a step whose loss or gradient norm is not finite leaves parameters and state as they were.
    pub skip_non_finite: bool,
    /// How much of the averaged weights an update keeps, if weights are averaged: 0.999, say. The first updates
    /// keep less, `(1 + n) / (10 + n)` at update n, so that the average forgets where training began.
    pub ema_decay: Option<f64>,
    /// How the model is cut where several ranks have its blocks (`pp`); without them it counts for nothing.
    pub pipeline: PipelineOptions,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            clip: Clip::default(),
            precision: Precision::default(),
            compile: CompileMode::default(),
            max_traces: 8,
            communication: Communication::default(),
            gradient_checkpointing: CheckpointPolicy::None,
            skip_non_finite: true,
            ema_decay: None,
            pipeline: PipelineOptions::default(),
        }
    }
}

impl StepOptions {
    pub(super) fn check(&self) -> Result<()> {
        match self.ema_decay {
            Some(decay) if !(0.0..1.0).contains(&decay) => {
                Err(TrainError::EmaDecay { decay }.into())
            }
            _ => Ok(()),
        }
    }

    /// How many traces there may be; `None` where nothing is compiled.
    pub(super) fn limit(&self, is_pipelined: bool) -> Result<Option<Limit>> {
        if is_pipelined {
            return match self.compile {
                CompileMode::On => Err(PipelineError::Compiled.into()),
                CompileMode::Auto | CompileMode::Off => Ok(None),
            };
        }
        // What MLX computes on decides, not what it was built for: a Mac can be told to use its CPU.
        Ok(match self.compile {
            CompileMode::Off => None,
            CompileMode::On => Some(Limit::Refuse(self.max_traces)),
            CompileMode::Auto => (!ffi::is_on_cpu()?).then_some(Limit::Warn(self.max_traces)),
        })
    }
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

/// What gradients travel as between ranks that share a batch. Each rank's are rounded once before they are added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum Communication {
    /// As f32 numbers.
    #[default]
    F32,
    /// As bf16 numbers: half of the bytes. Each addition rounds to 8 bits, so that the mean over N ranks is off by
    /// at most N / 256 of the mean of magnitudes.
    Bf16,
}

impl Communication {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::Float32,
            Self::Bf16 => Dtype::Bfloat16,
        }
    }
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
