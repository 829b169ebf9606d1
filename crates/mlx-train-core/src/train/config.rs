//! The settings of a training run.

use super::{
    Communication, CompileMode, EarlyStoppingConfig, NonFinite, Precision, SpikeConfig,
    StepOptions, TrainError,
};
use crate::{
    Result,
    checkpoint::CheckpointPolicy,
    config::ModelConfig,
    distributed::{Parallelism, PipelineBlocks, PipelineOptions, ScheduleKind},
    optim::{Clip, GroupConfig, OptimizerConfig, Schedule, ScheduleConfig},
    profile::MemoryConfig,
    store::CheckpointConfig,
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
    /// After how many minutes of one process the run stops, finished or not; null is never.
    #[config(range = 0.0..)]
    pub max_minutes: Option<f64>,
    /// How many rows one micro-batch has, on all ranks together; a step sees this times `accumulation`.
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
    /// How gradients become updates.
    pub optimizer: OptimizerConfig,
    /// Parameters that are trained in another way than the rest; the first group with a name counts.
    pub groups: Vec<GroupConfig>,
    /// The global norm that gradients are clipped to; null leaves them as they are.
    #[config(default = 1.0, range = 1e-30..)]
    pub max_grad_norm: Option<f64>,
    /// The value that each number of a gradient is clipped to, before the norm; null leaves them.
    #[config(range = 1e-30..)]
    pub max_grad_value: Option<f64>,
    /// Into how many parts the run is split over ranks: `none`, `dp=4`, `fsdp=4`, `tp=2`, `pp=2`, or several of them,
    /// as in `dp=2,tp=2`. `none` is data parallelism where several ranks are started.
    pub parallel: Parallelism,
    /// What gradients travel as between ranks that share a batch.
    pub communication: Communication,
    /// How many blocks each stage of a pipeline has: `measured`, by times that every rank measures before the first
    /// step, so that slow machines get fewer; `even`; or the numbers, as in `[17, 15]`.
    pub pipeline_blocks: PipelineBlocks,
    /// In which order the stages of a pipeline compute micro-batches: `1f1b`, whose memory does not grow with their
    /// number, or `gpipe`, all forward and then all backward. The numbers are the same.
    pub pipeline_schedule: ScheduleKind,
    /// In which dtypes a step computes and keeps its state.
    pub precision: Precision,
    /// Whether a step is traced once and replayed.
    pub compile: CompileMode,
    /// How many shapes of batches a compiled step is traced for before that is an error.
    #[config(default = 8, range = 1..)]
    pub max_traces: usize,
    /// Which blocks of the model compute twice in place of keeping activations: `none`, `full`, `every=2`,
    /// `layers=[0,3]`, `selective=[mlp,attention]` or `auto=12 GiB`.
    pub gradient_checkpointing: CheckpointPolicy,
    /// How much of the averaged weights a step keeps, such as 0.999; null averages none.
    #[config(range = 0.0..1.0)]
    pub ema_decay: Option<f64>,
    /// What happens when the loss or the gradients of a step are not finite.
    pub non_finite: NonFinite,
    /// Which losses are spikes, and what follows.
    pub spike: SpikeConfig,
    /// Whether a step is given to the device before the numbers of the one before are read, so that the device does not
    /// wait for the host. The numbers are the same. A step that is reported, evaluated or saved is waited for, and so is
    /// each where the run may go back.
    #[config(default = true)]
    pub run_ahead: bool,
    /// From which all randomness of the run follows.
    #[config(default = 0)]
    pub seed: u64,
    /// After how many steps numbers are reported.
    #[config(default = 10, range = 1..)]
    pub log_every: u64,
    /// After how many steps the held-out data is evaluated; 0 is at the end alone.
    #[config(default = 0)]
    pub eval_every: u64,
    /// When the run stops because a metric gets no better; null is never.
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// When checkpoints are saved, and which of them stay.
    pub checkpoint: CheckpointConfig,
    /// How much memory the run may take.
    pub memory: MemoryConfig,
    /// How many threads make batches; 0 makes each when it is needed.
    #[config(default = 1, range = 0..=1024)]
    pub num_workers: usize,
    /// How many batches each thread makes ahead.
    #[config(default = 2, range = 1..=1024)]
    pub prefetch: usize,
    /// How many held-out batches are evaluated before the first step, to find mistakes early.
    #[config(default = 1, range = 0..)]
    pub sanity_batches: usize,
    /// How many batches come again and again, to see whether the model can learn them; 0 is all data.
    #[config(default = 0)]
    pub overfit_batches: u64,
    /// Whether the run is a trial: three steps, an evaluation and a checkpoint, of which no file stays.
    pub fast_dev_run: bool,
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

    /// How a step computes; blocks that are to be measured are divided evenly, unless a [`Trainer`](super::Trainer)
    /// measures them.
    ///
    /// # Errors
    /// [`crate::optim::OptimError`] when a bound of the gradients is out of range.
    pub fn step_options(&self) -> Result<StepOptions> {
        let mut clip = Clip::default();
        if let Some(value) = self.max_grad_value {
            clip = clip.value(value)?;
        }
        if let Some(max_norm) = self.max_grad_norm {
            clip = clip.global_norm(max_norm)?;
        }
        let blocks = match &self.pipeline_blocks {
            PipelineBlocks::Given(blocks) => Some(blocks.clone()),
            PipelineBlocks::Measured | PipelineBlocks::Even => None,
        };
        Ok(StepOptions {
            clip,
            precision: self.precision,
            compile: self.compile,
            max_traces: self.max_traces,
            communication: self.communication,
            gradient_checkpointing: self.gradient_checkpointing.clone(),
            ema_decay: self.ema_decay,
            pipeline: PipelineOptions { rows: None, blocks, schedule: self.pipeline_schedule },
            ..StepOptions::default()
        })
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
        // What the optimizer and the schedule refuse, `config check` says too.
        self.optimizer.build(&self.groups).map_err(|refused| refused.to_string())?;
        if self.epochs.is_none() {
            self.learning_rates(steps).map_err(|refused| refused.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_cut_and_scheduled_as_a_config_says() -> Result<()> {
        let with = |settings: &[&str]| TrainConfig::default().with_overrides(settings);
        let pipeline = |settings: &[&str]| -> Result<PipelineOptions> {
            Ok(with(settings)?.step_options()?.pipeline)
        };
        assert_eq!(TrainConfig::default().pipeline_blocks, PipelineBlocks::Measured);
        assert_eq!(with(&["pipeline_blocks=even"])?.pipeline_blocks, PipelineBlocks::Even);
        let given = pipeline(&["pipeline_blocks=[3, 1]", "pipeline_schedule=gpipe"])?;
        let blocks = Some(vec![3, 1]);
        assert_eq!(given, PipelineOptions { rows: None, blocks, schedule: ScheduleKind::Gpipe });
        for (setting, reason) in [
            ("pipeline_blocks=fast", "must be one of `measured`, `even`, or a list of usize"),
            ("pipeline_blocks=[3, -1]", "`pipeline_blocks[1]` is -1"),
            ("pipeline_schedule=zigzag", "there is no pipeline schedule `zigzag`"),
        ] {
            let refused = with(&[setting]).map(drop).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        // What is written is read as the same.
        for setting in ["pipeline_blocks=measured", "pipeline_blocks=[3, 1]"] {
            let config = with(&[setting])?;
            let text = config.to_text(crate::config::Format::Toml)?;
            let read = TrainConfig::parse(&text, crate::config::Format::Toml)?;
            assert_eq!(read.pipeline_blocks, config.pipeline_blocks, "{text}");
        }
        Ok(())
    }
}
