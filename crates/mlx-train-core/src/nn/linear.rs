//! A linear layer, whole or a rank's part of one.

use super::{
    Head, Outputs,
    outputs::outputs_of,
    split::{LinearSplit, SplitLinear, Splitting, Way},
};
use crate::{
    Array, Error, Result,
    distributed::{
        Sharding, SplitBy,
        way::{Alternating, Columns, Rows, Vocabulary},
    },
    ffi::{self, Backward},
};
use mlx_rs::{
    builder::{Buildable, Builder},
    error::Exception,
    module::{Module, Param},
    nn,
    ops::{addmm, matmul},
};
use mlx_train_derive::ModuleParameters;

/// A linear layer: `x Wᵀ + b`.
///
/// It is mlx-rs's, which agrees with Python MLX, and can be divided among ranks besides: `#[shard(columns)]` gives a
/// rank a part of the outputs, `#[shard(rows)]` a part of the inputs, and `#[shard(vocabulary)]` a part of the
/// logits, which [`Linear::forward`](Module::forward) gathers and the losses of [`Linear::head`] do not need.
///
/// It has gradients of any order, and no [`jvp`](ffi::jvp()).
///
/// ```
/// use mlx_rs::module::Module;
/// use mlx_train_core::{Array, nn::Linear};
/// let mut layer = Linear::new(3, 2)?;
/// assert_eq!(layer.weight.shape(), [2, 3]);
/// assert_eq!(layer.forward(&Array::from_slice(&[1.0_f32; 12], &[4, 3]))?.shape(), [4, 2]);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone, ModuleParameters)]
pub struct Linear {
    /// W, `(out, in)`; on a rank `(out / ranks, in)` by columns, `(out, in / ranks)` by rows.
    #[param]
    pub weight: Param<Array>,
    /// b, `(out,)`, if there is one; on a rank `(out / ranks,)` by columns, and whole by rows.
    #[param]
    pub bias: Param<Option<Array>>,
    pub(super) split: Option<LinearSplit>,
}

impl Linear {
    /// A layer with a bias of `input_dims` numbers to `output_dims`, whose parameters are drawn as in Python MLX: f32,
    /// uniform within `1/sqrt(input_dims)`. [`LinearBuilder`] makes one without a bias.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn new(input_dims: i32, output_dims: i32) -> Result<Self, Exception> {
        LinearBuilder::new(input_dims, output_dims).build()
    }

    /// A layer of a weight `(out, in)` and, if there is one, a bias `(out,)`.
    pub fn of_weight(weight: Array, bias: Option<Array>) -> Self {
        Self { weight: Param::new(weight), bias: Param::new(bias), split: None }
    }

    /// The layer as the last one of a classifier, with losses that do without whole logits.
    ///
    /// # Errors
    /// When it is split by rows.
    pub fn head(&self) -> Result<Head<'_>> {
        let group = self.split.as_ref().map(LinearSplit::group_of_outputs).transpose()?;
        Ok(Head::new(&self.weight, self.bias.value.as_ref(), group))
    }

    /// The outputs of layers that have one input, `x` `(..., in)`: the queries, keys and values of an attention.
    ///
    /// They are those of [`Linear::forward`](Module::forward) of each, and may come from one product. Where all are split
    /// by columns, ranks add up once what comes back to `x`, and not for each layer.
    ///
    /// # Errors
    /// When `x` is of another width, or MLX fails.
    pub fn forward_all<const N: usize>(layers: [&Self; N], x: &Array) -> Result<Outputs<N>> {
        outputs_of(layers, x)
    }

    /// The layer's outputs for `x` `(..., in)`, added to `other` `(..., out)` if there is one: the stream of residual
    /// connections.
    ///
    /// Where a rank has the whole layer, the product adds them up: no pass over memory does.
    ///
    /// # Errors
    /// When a shape does not fit, or MLX fails.
    pub fn forward_onto(&self, x: &Array, other: Option<&Array>) -> Result<Array> {
        self.outputs_onto(x, other)
    }

    /// The layer's outputs for `silu(gate) * up` of the outputs of two layers, gate and up, added to `other` `(..., out)` if
    /// there is one.
    ///
    /// Where those come from one product, the array between is not kept for the backward pass.
    ///
    /// # Errors
    /// When gate and up are of another width than the layer's input, another shape does not fit, or MLX fails.
    pub fn forward_swiglu(&self, gated: &Outputs<2>, other: Option<&Array>) -> Result<Array> {
        self.outputs_of_swiglu(gated, other)
    }

    fn splitting(&mut self) -> Splitting<'_> {
        let Self { weight, bias, split } = self;
        Splitting { split, weight, has_bias: bias.is_some() }
    }
}

impl Module<&Array> for Linear {
    type Error = Exception;
    type Output = Array;

    /// Maps `x` `(..., in)` to `(..., out)`, in the wider of the input's and the weights' dtypes.
    fn forward(&mut self, x: &Array) -> Result<Array, Exception> {
        Ok(self.outputs(x)?)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl SplitLinear for Linear {
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
        self.bias.is_none()
    }

    fn affine(&self, x: &Array, added: Option<&Array>) -> Result<Array> {
        affine(x, &self.weight, added)
    }
}

/// `x Wᵀ + added`, of `x` `(..., in)`, a weight `(out, in)` and, if there is one, a bias `(out,)` or an array `(..., out)`.
///
/// The gradient of the weight lies in memory as the weight does. MLX's own is the transpose of what it computes,
/// `xᵀ d`, and whatever reads it along with the weight, an optimizer above all, has to go through one of them out of order.
pub(super) fn affine(x: &Array, weight: &Array, added: Option<&Array>) -> Result<Array> {
    let forward = |inputs: &[Array]| {
        let (x, weight) = (&inputs[0], inputs[1].transpose()?);
        Ok(vec![match inputs.get(2) {
            Some(bias) if bias.ndim() < 2 => addmm(bias, x, weight, None, None)?,
            other => product_onto(x, &weight, other)?,
        }])
    };
    let backward = |pass: Backward<'_>| {
        let ([x, weight, added @ ..], [slope]) = (pass.inputs, pass.cotangents) else {
            return Err(Error::message("MLX lost an input of a linear layer"));
        };
        let of_x = matmul(slope, weight)?.as_dtype(x.dtype())?;
        let of_weight = weight_gradient(slope, x)?.as_dtype(weight.dtype())?;
        let mut gradients = vec![of_x, of_weight];
        for added in added {
            let sum = if added.ndim() < 2 { &in_rows(slope)?.sum_axis(0, false)? } else { slope };
            gradients.push(sum.as_dtype(added.dtype())?);
        }
        Ok(gradients)
    };
    let inputs: Vec<Array> = [x, weight].into_iter().chain(added).cloned().collect();
    Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
}

/// `x b` of `x` `(..., in)` and `b` `(in, out)`; added to `other` `(..., out)` if there is one, in one operation.
pub(super) fn product_onto(x: &Array, b: &Array, other: Option<&Array>) -> Result<Array> {
    let Some(other) = other else { return Ok(matmul(x, b)?) };
    // With more axes, MLX would take one product for each row of a batch.
    let sum = addmm(in_rows(other)?, in_rows(x)?, b, None, None)?;
    Ok(sum.reshape(other.shape())?)
}

/// The gradient `(out, in)` of a weight from that of `x Wᵀ` `(..., out)` and `x` `(..., in)`.
pub(super) fn weight_gradient(slope: &Array, x: &Array) -> Result<Array> {
    Ok(matmul(in_rows(slope)?.transpose()?, in_rows(x)?)?)
}

fn in_rows(x: &Array) -> Result<Array, Exception> {
    x.reshape(&[-1, x.dim(-1)])
}

impl SplitBy<Columns> for Linear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.splitting().by(Way::Columns, sharding);
    }
}

impl SplitBy<Rows> for Linear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.splitting().by(Way::Rows, sharding);
    }
}

impl SplitBy<Vocabulary> for Linear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.splitting().by(Way::Vocabulary, sharding);
    }
}

impl SplitBy<Alternating> for Linear {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.splitting().in_turn(sharding);
    }
}

impl From<nn::Linear> for Linear {
    fn from(nn::Linear { weight, bias }: nn::Linear) -> Self {
        Self { weight, bias, split: None }
    }
}

/// Builds a [`Linear`].
///
/// ```
/// use mlx_rs::builder::Builder;
/// use mlx_train_core::nn::LinearBuilder;
/// assert!(LinearBuilder::new(3, 2).bias(false).build()?.bias.is_none());
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LinearBuilder {
    input_dims: i32,
    output_dims: i32,
    bias: bool,
}

impl LinearBuilder {
    /// A layer of `input_dims` numbers to `output_dims`, with a bias.
    pub fn new(input_dims: i32, output_dims: i32) -> Self {
        Self { input_dims, output_dims, bias: true }
    }

    /// Whether it has a bias.
    #[must_use]
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

impl Buildable for Linear {
    type Builder = LinearBuilder;
}

impl Builder<Linear> for LinearBuilder {
    type Error = Exception;

    fn build(self) -> Result<Linear, Exception> {
        let Self { input_dims, output_dims, bias } = self;
        Ok(nn::LinearBuilder::new(input_dims, output_dims).bias(bias).build()?.into())
    }
}
