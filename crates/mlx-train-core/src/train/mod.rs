//! Training: the step, the loop around it, and what they report.
//!
//! [`Trainer`] is the loop that most people want. It is made of public pieces ([`TrainStep`],
//! [`evaluate`]) with which anyone can write another one.

mod config;
mod early_stopping;
mod error;
mod evaluate;
mod events;
mod history;
mod outcome;
mod parameters;
mod spike;
mod step;
mod stop;
mod trainer;

pub use config::TrainConfig;
pub use early_stopping::{Best, EarlyStoppingConfig, Goal};
pub use error::TrainError;
pub use evaluate::{Evaluation, Metric, accuracy, evaluate};
pub use events::{Event, Finished, SkippedStep, Started, StepReport, StepSeconds};
pub use history::{HeldOutPoint, History, TrainingPoint};
pub use outcome::{Outcome, StopReason, Trained};
pub use spike::{Spike, SpikeConfig};
pub use step::{
    CompileMode, NonFinite, Precision, StateArrays, StepOptions, StepOutput, TrainState, TrainStep,
};
pub use stop::StopSignal;
pub use trainer::Trainer;
