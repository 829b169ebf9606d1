//! Structured configs.

use std::fmt::Debug;

/// The sizes and options of a model.
pub trait ModelConfig: Debug + Clone + Default + 'static {}
