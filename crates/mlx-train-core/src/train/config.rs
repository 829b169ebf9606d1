//! The settings of a training run.

use super::{EarlyStoppingConfig, SpikeConfig, TrainError};
use crate::{
    Result,
    config::ModelConfig,
    optim::{AdamW, Schedule, ScheduleConfig, WeightDecay},
};

/// How a model is trained: the `[train]` section of a config file.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = Self::check)]
pub struct TrainConfig {
    /// How many times the parameters are updated, unless `epochs` says it.
    #[config(default = 1000, range = 1..)]
    pub steps: u64,
    /// How many times every row is trained on, in the place of `steps`.
    #[config(range = 1..)]
    pub epochs: Option<u64>,
    /// After how many minutes the run stops, finished or not; null is never.
    #[config(range = 0.0..)]
    pub max_minutes: Option<f64>,
    /// How many rows one micro-batch has; a step sees this times `accumulation`.
    #[config(default = 32, range = 1..=1_048_576)]
    pub batch_size: usize,
    /// How many micro-batches make one step. More of them take time, not memory.
    #[config(default = 1, range = 1..)]
    pub accumulation: usize,
    /// The highest learning rate.
    #[config(default = 1e-3, range = 0.0..)]
    pub learning_rate: f64,
    /// In how many steps the learning rate rises from 0.
    #[config(default = 0, range = 0..)]
    pub warmup_steps: u64,
    /// What the learning rate does after that.
    pub schedule: ScheduleConfig,
    /// The learning rate at the end, unless it is constant.
    #[config(default = 0.0, range = 0.0..)]
    pub final_learning_rate: f64,
    /// The decoupled weight decay of matrices.
    #[config(default = 0.01, range = 0.0..)]
    pub weight_decay: f64,
    /// How much of the running mean of the gradient a step keeps.
    #[config(default = 0.9, range = 0.0..1.0)]
    pub beta1: f64,
    /// How much of the running mean of the squared gradient a step keeps.
    #[config(default = 0.999, range = 0.0..1.0)]
    pub beta2: f64,
    /// What is added to the root of the second moment.
    #[config(default = 1e-8, range = 1e-30..1.0)]
    pub epsilon: f64,
    /// The global norm that gradients are clipped to; null leaves them as they are.
    #[config(default = 1.0, range = 1e-30..)]
    pub max_grad_norm: Option<f64>,
    /// From which all randomness of the run follows.
    #[config(default = 0)]
    pub seed: u64,
    /// After how many steps numbers are read and reported.
    #[config(default = 10, range = 1..)]
    pub log_every: u64,
    /// After how many steps the held-out data is evaluated; 0 is at the end alone.
    #[config(default = 0)]
    pub eval_every: u64,
    /// How many held-out batches are evaluated before the first step, to find mistakes early.
    #[config(default = 1, range = 0..)]
    pub sanity_batches: usize,
    /// When the run stops because a metric gets no better; null is never.
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// Which losses are reported as spikes.
    pub spike: SpikeConfig,
}

impl TrainConfig {
    /// How many steps the run has on data of `num_rows` rows.
    ///
    /// With `epochs`, the last step may have fewer micro-batches than the others, and the last of these
    /// fewer rows: every row is trained on as often as every other.
    pub fn total_steps(&self, num_rows: usize) -> u64 {
        let rows_per_step = self.batch_size.saturating_mul(self.accumulation) as u64;
        let total_rows = self.epochs.map(|epochs| epochs.saturating_mul(num_rows as u64));
        total_rows.map_or(self.steps, |rows| rows.div_ceil(rows_per_step.max(1)))
    }

    /// The learning rate over the `total_steps` of the run.
    ///
    /// # Errors
    /// [`crate::optim::OptimError`] when the rates are out of range; [`TrainError::LongWarmup`] when the
    /// learning rate never arrives.
    pub fn learning_rates(&self, total_steps: u64) -> Result<Schedule> {
        let &Self { warmup_steps, .. } = self;
        if warmup_steps > total_steps {
            return Err(TrainError::LongWarmup { warmup_steps, total_steps }.into());
        }
        self.schedule.build(self.learning_rate, self.final_learning_rate, warmup_steps, total_steps)
    }

    /// The optimizer that the settings describe.
    ///
    /// # Errors
    /// [`crate::optim::OptimError`] when a setting is out of range.
    pub fn adamw(&self) -> Result<AdamW> {
        let weight_decay = WeightDecay::matrices(self.weight_decay)?;
        let adamw = AdamW::default().betas(self.beta1, self.beta2)?.epsilon(self.epsilon)?;
        Ok(adamw.weight_decay(weight_decay))
    }

    /// What no field can check alone.
    fn check(&self) -> Result<(), String> {
        let &Self { learning_rate, final_learning_rate, steps, warmup_steps, .. } = self;
        if final_learning_rate > learning_rate {
            return Err(format!(
                "final_learning_rate ({final_learning_rate}) must not be above learning_rate ({learning_rate})"
            ));
        }
        // With epochs, the number of steps is known when the data is.
        if self.epochs.is_none() && warmup_steps > steps {
            return Err(format!(
                "warmup_steps ({warmup_steps}) must not be above steps ({steps}), or the learning rate never arrives"
            ));
        }
        Ok(())
    }
}
