//! Training: the step, the loop around it, and what they report.
//!
//! [`Trainer`] is the loop that most people want. It is made of public pieces ([`TrainStep`],
//! [`evaluate`], a [`DataLoader`](crate::data::DataLoader), a [`Schedule`](crate::optim::Schedule), a
//! [`Saver`](crate::store::Saver)) with which anyone can write another one.

mod checkpointing;
mod clock;
mod config;
mod early_stopping;
mod error;
mod evaluate;
mod events;
mod feed;
mod history;
mod memory_check;
mod outcome;
mod parameters;
mod profiling;
mod progress;
mod ranks;
mod restore_point;
mod resume;
mod run;
mod saved_number;
mod shared_loading;
mod shared_saving;
mod snapshot;
mod spike;
mod stages;
mod step;
mod stop;
mod trainer;

pub use config::TrainConfig;
pub use early_stopping::{Best, EarlyStoppingConfig};
pub use error::TrainError;
pub use evaluate::{Evaluation, Metric, accuracy, evaluate};
pub use events::{Event, Finished, SkippedStep, Started, StepReport, StepSeconds};
pub use history::{HeldOutPoint, History, TrainingPoint};
pub use outcome::{Outcome, StopReason, Trained};
pub use profiling::ProfileOptions;
pub use resume::{Difference, Resume, RunDescription};
pub use spike::{Spike, SpikeAction, SpikeConfig};
pub(crate) use step::STARTED_TOGETHER;
pub use step::{
    Communication, CompileMode, NonFinite, NotFiniteGradients, Precision, StageTimes, StateArrays,
    StatePlacements, StepAhead, StepOptions, StepOutput, TrainState, TrainStep,
};
pub use stop::StopSignal;
pub use trainer::Trainer;
