//! Training: the step, the loop around it, and what they report.
//!
//! [`Trainer`] is the loop that most people want. It is made of public pieces ([`TrainState`],
//! [`train_step`], [`evaluate`]) with which anyone can write another one.

mod config;
mod error;
mod evaluate;
mod events;
mod history;
mod parameters;
mod step;
mod trainer;

pub use config::TrainConfig;
pub use error::TrainError;
pub use evaluate::{Evaluation, Metric, accuracy, evaluate};
pub use events::{Event, Finished, Started, StepReport};
pub use history::{HeldOutPoint, History, TrainingPoint};
pub use step::{StepOutput, TrainState, train_step};
pub use trainer::Trainer;
