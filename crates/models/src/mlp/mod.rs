//! A multilayer perceptron: layers of weights with an activation between them.
//!
//! Each hidden layer is linear, norm, activation, dropout; a last linear one makes the output.
//! Rumelhart, Hinton and Williams, Nature 323 (1986); the norm stands before the activation as in
//! Ba et al., arXiv:1607.06450, section 3.
//!
//! Ranks can divide its layers (tensor parallelism), two by two: those whose width between them is a multiple of their
//! number and has no norm. The others stay whole.
//!
//! ```
//! # use mlx_train_core::{Array, model::{BaseModel, FromConfig}};
//! # use mlx_train_models::mlp::{Mlp, MlpConfig};
//! let mut model = Mlp::from_config(&MlpConfig { input_size: 12, ..Default::default() })?;
//! let images = Array::from_slice(&[0.5_f32; 24], &[2, 3, 4]);
//! assert_eq!(model.forward(&images)?.shape(), [2, 10]);
//! # Ok::<(), mlx_train_core::Error>(())
//! ```
//!
//! Shape letters: B batch, I `input_size`, O `output_size`, W a width of `hidden_sizes`.

mod config;
mod layer;

pub use config::{Activation, MlpConfig, Norm, Task};
pub use layer::{HiddenLayer, NormLayer};

use mlx_rs::{Array, module::Module, ops::zeros};
use mlx_train_core::{
    Error, Result, Shard, assert_shape,
    batch::Batch,
    config::ModelConfig,
    loss::{CrossEntropy, cross_entropy, mse},
    model::{BaseModel, FromConfig, Loss},
    nn::{Linear, Stack, init::kaiming_normal},
};
use mlx_train_derive::{ModuleParameters, register_model};

/// Multilayer perceptron: features `(B, …)`, flattened to `(B, I)`, to outputs `(B, O)`.
///
/// The outputs are logits for classification and plain numbers for regression. Dropout is active
/// only while the model trains.
#[register_model("mlp", tags = ["classification", "regression"])]
#[derive(Debug, Clone, ModuleParameters, Shard)]
pub struct Mlp {
    #[param]
    #[shard]
    layers: Stack<HiddenLayer>,
    #[param]
    #[shard(alternating)]
    output: Linear,
    config: MlpConfig,
}

impl Mlp {
    /// The sizes and options that the model was built with.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }

    /// `(B, …)` to `(B, I)`.
    fn flatten(&self, x: &Array) -> Result<Array> {
        assert_shape!(x, [batch, ..]);
        let input_size = self.config.input_size;
        if x.size() as i64 != i64::from(batch) * i64::from(input_size) {
            return Err(Error::message(format!(
                "features have shape {:?}; the mlp takes (batch, …) with input_size = {input_size} \
                 numbers for each of the batch",
                x.shape()
            )));
        }
        Ok(x.reshape(&[batch, input_size])?)
    }

    /// The loss of outputs `(B, O)`, as [`BaseModel::loss_fn`] says.
    fn loss_of(&self, output: &Array, y: &Array) -> Result<Loss> {
        match self.config.task {
            Task::Classification => {
                let options = CrossEntropy {
                    label_smoothing: self.config.label_smoothing,
                    ..Default::default()
                };
                cross_entropy(output, y, &options)
            }
            Task::Regression => mse(output, y),
        }
    }
}

impl FromConfig for Mlp {
    type Config = MlpConfig;

    fn from_config(config: &MlpConfig) -> Result<Self> {
        config.validate()?;
        let inputs = std::iter::once(&config.input_size).chain(&config.hidden_sizes);
        let layers = inputs
            .zip(&config.hidden_sizes)
            .map(|(&input_size, &width)| HiddenLayer::new(input_size, width, config));
        let layers = layers.collect::<Result<_>>()?;
        let width = config.hidden_sizes.last().copied().unwrap_or(config.input_size);
        // No activation follows, so a gain of 1 keeps the variance.
        let weight = kaiming_normal(&[config.output_size, width], 1.0)?;
        let output = linear(weight, config.bias)?;
        Ok(Self { layers, output, config: config.clone() })
    }
}

impl BaseModel for Mlp {
    /// Features `(B, …)` of any floating dtype to outputs `(B, O)`.
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.layers.forward(self.flatten(x)?, |layer, _, x| layer.forward(&x))?; // (B, W)
        Ok(self.output.forward(&x)?) // (B, O)
    }

    /// Classification: cross-entropy, in nats, against classes `y` `(B,)`, integers.
    /// Regression: mean squared error against numbers `y` `(B, O)`.
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let output = self.forward(x)?;
        self.loss_of(&output, y)
    }

    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        let output = self.forward(&batch.x)?;
        Ok((self.loss_of(&output, &batch.y)?, output))
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

/// A linear layer of a weight `(out, in)` and, if asked for, a bias `(out,)` of zeros.
fn linear(weight: Array, bias: bool) -> Result<Linear> {
    let bias = bias.then(|| zeros::<f32>(&weight.shape()[..1])).transpose()?;
    Ok(Linear::of_weight(weight, bias))
}
