//! Losses, each a mean with the number of targets that it averages; see [`Loss`].
//!
//! Everything is computed and summed in f32, whatever the dtype of the model's output.
//! Shape letters: V classes (vocabulary), `...` any axes, none included.

mod accuracy;
mod cross_entropy;
mod error;
mod linear_cross_entropy;
mod regression;
mod split_cross_entropy;
mod sum;

pub use crate::model::Loss;
pub use accuracy::accuracy;
pub use cross_entropy::{CrossEntropy, binary_cross_entropy, cross_entropy, validate_targets};
pub use error::LossError;
pub use linear_cross_entropy::{chunk_size, linear_cross_entropy, split_linear_cross_entropy};
pub use regression::{huber, l1, mse, smooth_l1};
pub use split_cross_entropy::split_cross_entropy;
pub use sum::sum_f32;
