//! Low-rank adapters: linear layers that stay as they are, with small ones beside them that are trained.
//!
//! Source: Hu et al., arXiv:2106.09685, section 4.1.

use super::{
    Linear, Outputs, init,
    linear::affine,
    outputs::outputs_of,
    split::{LinearSplit, SplitLinear, Splitting, Way},
};
use crate::{
    Array, Error, Result,
    config::ModelConfig,
    distributed::{
        Sharding, SplitBy,
        way::{Columns, Rows},
    },
};
use mlx_rs::{
    Dtype,
    module::{ModuleParameters as _, Param},
    ops::{addmm, matmul, zeros},
};
use mlx_train_derive::ModuleParameters;

/// The size of adapters, and which layers get one.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct LoraConfig {
    /// How many directions an adapter has, each of which takes as many numbers as its layer has inputs and outputs.
    #[config(default = 8, range = 1..)]
    pub rank: i32,
    /// What adapters add is multiplied by this over `rank`, so that another rank needs no other learning rate.
    #[config(default = 16.0, range = 0.0..)]
    pub alpha: f32,
    /// The names of the layers that get one, such as `q_proj`.
    #[config(default = vec!["q_proj".to_owned(), "v_proj".to_owned()])]
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// What an adapter's output is multiplied by.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank.max(1) as f32
    }
}

/// A linear layer that may have an adapter: `x Wᵀ + b + scale (x Aᵀ) Bᵀ`.
///
/// `weight` W `(out, in)` and `bias` `(out,)` have the names of a [`Linear`]'s, so weights that were saved without
/// adapters fit. With an adapter they are frozen, and `lora_a` A `(rank, in)` and `lora_b` B
/// `(out, rank)` are trained. B starts at zero: a fresh adapter changes nothing.
///
/// ```
/// use mlx_rs::module::ModuleParameters;
/// use mlx_train_core::{Array, nn::{Linear, LoraConfig, LoraLinear}};
/// let mut layer = LoraLinear::from(Linear::new(64, 32)?);
/// layer.adapt(&LoraConfig { rank: 4, ..LoraConfig::default() })?;
/// let trained: usize = layer.trainable_parameters().flatten().values().map(|array| array.size()).sum();
/// assert_eq!(trained, 4 * (64 + 32));
/// layer.merge()?;
/// assert_eq!(layer.num_parameters(), 2);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, ModuleParameters)]
pub struct LoraLinear {
    /// `(out, in)`.
    #[param]
    pub weight: Param<Array>,
    /// `(out,)`, if there is one.
    #[param]
    pub bias: Param<Option<Array>>,
    /// `(rank, in)`, with an adapter.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `(out, rank)`, with an adapter.
    #[param]
    pub lora_b: Param<Option<Array>>,
    scale: f32,
    split: Option<LinearSplit>,
}

impl From<Linear> for LoraLinear {
    /// The layer as it is, without an adapter.
    fn from(Linear { weight, bias, split }: Linear) -> Self {
        Self { weight, bias, lora_a: Param::new(None), lora_b: Param::new(None), scale: 0.0, split }
    }
}

impl LoraLinear {
    /// Whether the name of a parameter is that of an adapter's: weights without adapters lack those.
    pub fn is_adapter(name: &str) -> bool {
        name.ends_with(".lora_a") || name.ends_with(".lora_b")
    }

    /// Maps `x` `(..., in)` to `(..., out)`, in the wider of the input's and the weights' dtypes.
    ///
    /// # Errors
    /// When `x` is of another width, or MLX fails.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.outputs(x)
    }

    /// The outputs of layers that have one input, `x` `(..., in)`: the queries, keys and values of an attention.
    ///
    /// They are those of [`LoraLinear::forward`] of each, and may come from one product. Where all are split by columns,
    /// ranks add up once what comes back to `x`, and not for each layer.
    ///
    /// # Errors
    /// As [`LoraLinear::forward`].
    pub fn forward_all<const N: usize>(layers: [&Self; N], x: &Array) -> Result<Outputs<N>> {
        outputs_of(layers, x)
    }

    /// The layer's outputs for `x`, added to `other` if there is one: [`Linear::forward_onto`].
    ///
    /// # Errors
    /// As [`Linear::forward_onto`].
    pub fn forward_onto(&self, x: &Array, other: Option<&Array>) -> Result<Array> {
        self.outputs_onto(x, other)
    }

    /// The layer's outputs for `silu(gate) * up` of the outputs of two layers, added to `other` if there is one:
    /// [`Linear::forward_swiglu`].
    ///
    /// # Errors
    /// As [`Linear::forward_swiglu`].
    pub fn forward_swiglu(&self, gated: &Outputs<2>, other: Option<&Array>) -> Result<Array> {
        self.outputs_of_swiglu(gated, other)
    }

    /// Freezes the layer and puts a fresh adapter beside it, in the place of an earlier one.
    ///
    /// A is drawn as the weights of a [`Linear`] are, uniform within `1/sqrt(in)`, as in the authors' library.
    ///
    /// # Errors
    /// When the rank is not positive, or MLX fails.
    pub fn adapt(&mut self, config: &LoraConfig) -> Result<()> {
        let &[num_outputs, num_inputs] = self.weight.shape() else {
            return Err(Error::message(format!(
                "a linear layer has a weight of two axes, not of shape {:?}",
                self.weight.shape()
            )));
        };
        self.freeze_parameters(true);
        let a = init::kaiming_uniform(&[config.rank, num_inputs], 3_f32.sqrt().recip())?;
        let b = zeros::<f32>(&[num_outputs, config.rank])?;
        let dtype = self.weight.dtype();
        self.lora_a = Param::new(Some(a.as_dtype(dtype)?));
        self.lora_b = Param::new(Some(b.as_dtype(dtype)?));
        self.scale = config.scale();
        Ok(())
    }

    /// Adds the adapter, if there is one, to the weight, which is then trained again.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn merge(&mut self) -> Result<()> {
        if let (Some(a), Some(b)) = (self.lora_a.value.take(), self.lora_b.value.take()) {
            let merged = merged(&self.weight, &a, &b, self.scale)?;
            self.weight.value = merged;
        }
        self.unfreeze_parameters(true);
        Ok(())
    }
}

impl SplitLinear for LoraLinear {
    fn split(&self) -> Option<&LinearSplit> {
        self.split.as_ref()
    }

    fn weight(&self) -> &Array {
        &self.weight
    }

    fn bias(&self) -> Option<&Array> {
        self.bias.value.as_ref()
    }

    fn is_plain(&self) -> bool {
        self.bias.is_none() && self.lora_a.is_none() && self.lora_b.is_none()
    }

    fn affine(&self, x: &Array, added: Option<&Array>) -> Result<Array> {
        let y = affine(x, &self.weight, added)?;
        let (Some(a), Some(b)) = (&*self.lora_a, &*self.lora_b) else { return Ok(y) };
        let [a, b] = match &self.split {
            None => [a.clone(), b.clone()],
            Some(split) => split.adapter(a, b)?,
        };
        Ok(addmm(y, matmul(x, a.transpose()?)?, b.transpose()?, self.scale, 1.0)?)
    }
}

impl LoraLinear {
    fn splitting(&mut self) -> Splitting<'_> {
        let Self { weight, bias, split, .. } = self;
        Splitting { split, weight, has_bias: bias.is_some() }
    }
}

/// The outputs of the adapter are split as the layer's are: B by its rows.
impl SplitBy<Columns> for LoraLinear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        if self.lora_b.is_some() {
            sharding.split("lora_b", 0, self.splitting().shape()[0]);
        }
        self.splitting().by(Way::Columns, sharding);
    }
}

/// The inputs of the adapter are split as the layer's are: A by its columns.
impl SplitBy<Rows> for LoraLinear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        if self.lora_a.is_some() {
            sharding.split("lora_a", 1, self.splitting().shape()[1]);
        }
        self.splitting().by(Way::Rows, sharding);
    }
}

/// `W + scale B A`, computed in f32, in the dtype of the weight.
pub(crate) fn merged(weight: &Array, a: &Array, b: &Array, scale: f32) -> Result<Array> {
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let sum = addmm(wide(weight)?, wide(b)?, wide(a)?, scale, 1.0)?;
    Ok(sum.as_dtype(weight.dtype())?)
}
