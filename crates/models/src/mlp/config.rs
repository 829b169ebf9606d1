//! The sizes and options of the multilayer perceptron.

use crate::check_weight;
use mlx_rs::{Array, ops::tanh};
use mlx_train_core::{
    Result,
    nn::{gelu, relu, silu},
};
use mlx_train_derive::ModelConfig;
use std::f32::consts::SQRT_2;

/// Sizes and options of an MLP.
///
/// The defaults are for images of 28 x 28 pixels in ten classes.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = MlpConfig::check)]
pub struct MlpConfig {
    /// How many numbers each input has, over all its axes.
    #[config(default = 784, range = 1..)]
    pub input_size: i32,
    /// Width of each hidden layer, first to last; an empty list makes a linear model.
    #[config(default = [256, 128], range = 1..)]
    pub hidden_sizes: Vec<i32>,
    /// How many numbers each output has: classes, or targets of a regression.
    #[config(default = 10, range = 1..)]
    pub output_size: i32,
    /// What follows each hidden layer's weights and norm.
    pub activation: Activation,
    /// What each hidden layer's features are normalised by.
    pub norm: Norm,
    /// Probability with which a hidden layer's output is dropped in training.
    #[config(default = 0.0, range = 0.0..1.0)]
    pub dropout: f32,
    /// Whether linear layers add a bias.
    #[config(default = true)]
    pub bias: bool,
    /// What the outputs are, and so which loss fits them.
    pub task: Task,
    /// How much of a class's probability the loss spreads over all; classification only.
    #[config(default = 0.0, range = 0.0..1.0)]
    pub label_smoothing: f32,
}

impl MlpConfig {
    /// What must hold between fields; their ranges are checked one by one before.
    fn check(&self) -> Result<(), String> {
        let hidden = self.hidden_sizes.iter().map(|&size| ("hidden_sizes", size));
        let outputs = hidden.clone().chain([("output_size", self.output_size)]);
        [("input_size", self.input_size)]
            .into_iter()
            .chain(hidden)
            .zip(outputs)
            .try_for_each(|(input, output)| check_weight([input, output]))?;
        if self.task == Task::Regression && self.label_smoothing > 0.0 {
            return Err(format!(
                "label_smoothing = {} has no meaning for task = \"regression\"; remove it",
                self.label_smoothing
            ));
        }
        Ok(())
    }
}

/// What the outputs of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub enum Task {
    /// Logits of classes, trained by cross-entropy.
    #[config(default)]
    Classification,
    /// Numbers, trained by mean squared error.
    Regression,
}

/// A function of each number between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub enum Activation {
    /// `max(x, 0)`.
    #[config(default)]
    Relu,
    /// `x * Φ(x)`, with the normal distribution function (arXiv:1606.08415).
    Gelu,
    /// `x * sigmoid(x)` (arXiv:1702.03118).
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Maps `x` `(...)`; shape and dtype stay.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply(self, x: &Array) -> Result<Array> {
        match self {
            Self::Relu => relu(x),
            Self::Gelu => gelu(x),
            Self::Silu => silu(x),
            Self::Tanh => Ok(tanh(x)?),
        }
    }

    /// How much larger weights before it start, so that it keeps the variance of what flows through.
    ///
    /// `sqrt(2)` for ReLU, which drops half (He et al., arXiv:1502.01852, equation 10), and for
    /// GELU and SiLU, which come close to it; 1 for tanh, the slope at zero (Glorot and Bengio,
    /// AISTATS 2010, section 4.2.1).
    pub(super) fn gain(self) -> f32 {
        match self {
            Self::Relu | Self::Gelu | Self::Silu => SQRT_2,
            Self::Tanh => 1.0,
        }
    }
}

/// What divides the features of a layer by their size.
///
/// Batch norm is not among them: its running statistics change in the forward pass, so it computes
/// something else when a step is accumulated, compiled, checkpointed or spread over devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ModelConfig)]
pub enum Norm {
    /// Nothing.
    #[config(default)]
    None,
    /// Mean 0 and variance 1, then a learned scale and shift (arXiv:1607.06450).
    LayerNorm,
    /// Mean square 1, then a learned scale (arXiv:1910.07467).
    RmsNorm,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_mlx_cannot_count_is_refused_by_its_sizes() {
        for (input_size, hidden_sizes, output_size, names) in [
            (1 << 20, vec![1 << 11], 1, "input_size = 1048576 and hidden_sizes = 2048"),
            (1, vec![1 << 20, 1 << 11], 1, "hidden_sizes = 1048576 and hidden_sizes = 2048"),
            (1, vec![1 << 20], 1 << 11, "hidden_sizes = 1048576 and output_size = 2048"),
            (1 << 20, vec![], 1 << 11, "input_size = 1048576 and output_size = 2048"),
        ] {
            let config = MlpConfig { input_size, hidden_sizes, output_size, ..Default::default() };
            let refused = config.check().unwrap_err();
            assert!(refused.contains(names), "{refused}");
        }
    }

    #[test]
    fn label_smoothing_of_a_regression_is_refused() {
        let config =
            MlpConfig { task: Task::Regression, label_smoothing: 0.1, ..Default::default() };
        assert!(config.check().unwrap_err().contains("label_smoothing = 0.1"));
        assert_eq!(MlpConfig { label_smoothing: 0.0, ..config }.check(), Ok(()));
    }
}
