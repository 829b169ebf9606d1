//! How much memory a training step needs, before there is one.
//!
//! MLX records what it will compute, with shapes and dtypes, and allocates nothing until it computes. So the
//! engine's own step is recorded ([`Recording`]) for any model, and MLX's evaluation of it is simulated: the
//! order of the operations, which of them reuse a buffer, and how long what was handed to the device is held.
//! A model that fits no machine is estimated as one that does.

mod estimator;
mod layout;
mod machine;
mod memory;
mod order;
mod place;
mod queue;
mod record;
mod rows;
mod rule;
mod shapes;

pub use estimator::{Change, Estimator, Fit};
pub use machine::{Backend, Limit, LimitSource, Machine, PerBuffer};
pub use record::{Recording, Sizes};
pub use rows::Rows;
pub(crate) use rule::is_view;

use memory::{Memory, Purpose, Subject};
use serde::Serialize;

/// What a training step needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The most bytes that MLX holds at a time, which its peak counter then shows.
    pub peak_bytes: u64,
    /// What is held at that time.
    pub at_peak: AtPeak,
    /// What is needed whatever the batch is.
    pub sizes: Sizes,
    /// How much arithmetic a step takes, what is computed twice included.
    pub flops: f64,
}

/// What memory is held for when the most is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AtPeak {
    /// Parameters, and copies of them in the dtype that the model computes in.
    pub weights_bytes: u64,
    /// The gradients that exist at that time.
    pub gradients_bytes: u64,
    /// What the optimizer keeps, and averaged weights.
    pub optimizer_bytes: u64,
    /// Inputs and targets.
    pub batch_bytes: u64,
    /// Outputs of the model and what is as wide: logits, their logarithms, their gradient.
    pub outputs_bytes: u64,
    /// All else: what the backward pass waits for, and what waits to be freed.
    pub activations_bytes: u64,
}

impl Estimate {
    /// Simulates a recorded step.
    pub fn of(recording: &Recording, machine: &Machine) -> Self {
        let Recording { graph, evaluations, resident, held, purposes, sizes } = recording;
        let subject = Subject { graph, resident, held, purposes };
        let peak = Memory::new(&subject, machine).evaluate(evaluations);
        let at = |purpose: Purpose| peak.by_purpose[purpose as usize];
        let at_peak = AtPeak {
            weights_bytes: at(Purpose::Weights),
            gradients_bytes: at(Purpose::Gradients),
            optimizer_bytes: at(Purpose::Optimizer),
            batch_bytes: at(Purpose::Batch),
            outputs_bytes: at(Purpose::Outputs),
            activations_bytes: at(Purpose::Activations),
        };
        let (peak_bytes, flops) = (peak.bytes, graph.total_flops());
        Self { peak_bytes, at_peak, sizes: *sizes, flops }
    }
}
