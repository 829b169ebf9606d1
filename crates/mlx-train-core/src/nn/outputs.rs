//! What several linear layers make of one input.

use super::{
    linear::{affine, product_onto, weight_gradient},
    rotary,
    split::{LinearSplit, SplitLinear, Way},
    swiglu,
};
use crate::{
    Array, Error, Result,
    ffi::{self, Backward},
    kernels::{Family, kernel_form, rotary::Rotation, swiglu::Swiglu},
};
use mlx_rs::ops::{concatenate, matmul, split_at_indices};
use std::slice::from_ref;

/// The outputs of N linear layers that have one input: the queries, keys and values of an attention, say.
///
/// On a GPU, one product with all their weights is faster than one with each where the layers are small and there are
/// many tokens: it fills the GPU, and what comes back to the input is added up inside of it. Their outputs then lie
/// beside each other, and what goes on with them takes them from there.
#[derive(Debug, Clone)]
pub struct Outputs<const N: usize>(Form<N>);

#[derive(Debug, Clone)]
enum Form<const N: usize> {
    /// `(..., out)` of each layer.
    Apart([Array; N]),
    /// `(..., sum of out)`, and the width of each.
    Joined(Array, [i32; N]),
}

impl<const N: usize> Outputs<N> {
    /// Those of each layer, `(..., out)`.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apart(&self) -> Result<[Array; N]> {
        match &self.0 {
            Form::Apart(outputs) => Ok(outputs.clone()),
            Form::Joined(joined, widths) => {
                let ends = widths.iter().scan(0, |end, width| {
                    *end += width;
                    Some(*end)
                });
                let ends: Vec<i32> = ends.take(N - 1).collect();
                // MLX would add up N arrays as wide as all, each with zeros but for one part.
                let parts = ffi::custom_vjp(
                    move |inputs| Ok(split_at_indices(&inputs[0], &ends, -1)?),
                    |pass| Ok(vec![concatenate(pass.cotangents, -1)?]),
                    from_ref(joined),
                )?;
                parts.try_into().map_err(|_| Error::message("a layer has one output"))
            }
        }
    }
}

impl Outputs<2> {
    /// `silu(gate) * up` of the outputs of two layers of one width, gate and up: [`swiglu`].
    ///
    /// # Errors
    /// As [`swiglu`].
    pub fn swiglu(&self) -> Result<Array> {
        let [gate, up] = self.apart()?;
        swiglu(&gate, &up)
    }

    /// `swiglu() weightᵀ`, added to `other` if there is one, where a kernel makes it of what lies beside each other.
    pub(super) fn swiglu_product(
        &self,
        weight: &Array,
        other: Option<&Array>,
    ) -> Result<Option<Array>> {
        let Form::Joined(joined, [gate, up]) = &self.0 else { return Ok(None) };
        let is_alike = |array: &Array| array.dtype() == joined.dtype();
        if gate != up || !is_alike(weight) || !other.is_none_or(is_alike) {
            return Ok(None);
        }
        match Swiglu::of_joined(joined)? {
            Some(kernels) => gated_product(kernels, joined, weight, other).map(Some),
            None => Ok(None),
        }
    }
}

impl Outputs<3> {
    /// The heads of attention, of layers that make queries, keys and values of tokens `(B, T, C)`: `(B, H, T, D)`,
    /// rotated by their [positions](rotary), `(B, K, T, D)`, rotated, and `(B, K, T, D)`.
    ///
    /// `num_heads` is H and K, and the first token has position `offset`.
    ///
    /// # Errors
    /// When the layers have other widths, there are other axes or D is odd, or MLX fails.
    pub fn rotary_heads(
        &self,
        [h, k]: [i32; 2],
        head_dim: i32,
        theta: f32,
        offset: i32,
    ) -> Result<[Array; 3]> {
        let heads_first = |x: Array| x.transpose_axes(&[0, 2, 1, 3]);
        if let (Form::Joined(joined, _), 0) = (&self.0, offset) {
            let joined = joined.reshape(&heads(joined, h + 2 * k, head_dim)?)?;
            if let Some(rotation) = Rotation::of(&joined, theta)? {
                let [queries, keys, values] = rotation.apply_apart(&joined, [h, k])?;
                return Ok([heads_first(queries)?, heads_first(keys)?, heads_first(values)?]);
            }
        }
        let [queries, keys, values] = self.apart()?;
        let apart =
            |x: &Array, number| -> Result<_> { Ok(x.reshape(&heads(x, number, head_dim)?)?) };
        let queries = rotary(&apart(&queries, h)?, theta, offset)?;
        let keys = rotary(&apart(&keys, k)?, theta, offset)?;
        Ok([queries, keys, heads_first(apart(&values, k)?)?])
    }
}

/// `(silu(gate) * up) weightᵀ` of gates and what they let through beside each other, `joined` `(..., 2 F)`, and `weight`
/// `(out, F)`; added to `other` `(..., out)`, if there is one.
///
/// What the product is taken of is not kept for the backward pass: the kernel of the gradients makes it anew, of what it
/// reads anyway.
fn gated_product(
    kernels: Swiglu,
    joined: &Array,
    weight: &Array,
    other: Option<&Array>,
) -> Result<Array> {
    let lost = || Error::message("MLX lost an input of a gated product");
    let forward = move |inputs: &[Array]| {
        let [joined, weight, other @ ..] = inputs else { return Err(lost()) };
        let (x, weight) = (kernels.value_of(joined)?, weight.transpose()?);
        Ok(vec![product_onto(&x, &weight, other.first())?])
    };
    let backward = move |pass: Backward<'_>| {
        let ([joined, weight, other @ ..], [slope]) = (pass.inputs, pass.cotangents) else {
            return Err(lost());
        };
        let [of_joined, x] = kernels.gradient_of(joined, &matmul(slope, weight)?)?;
        let mut gradients = vec![of_joined, weight_gradient(slope, &x)?];
        gradients.extend(other.iter().map(|_| slope.clone()));
        Ok(gradients)
    };
    let inputs: Vec<Array> = [joined, weight].into_iter().chain(other).cloned().collect();
    Ok(ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0))
}

/// The shape `(B, T, number, head_dim)` of heads that lie beside each other in `x` `(B, T, number head_dim)`.
fn heads(x: &Array, number: i32, head_dim: i32) -> Result<[i32; 4]> {
    match *x.shape() {
        [batch, tokens, width] if width == number * head_dim => {
            Ok([batch, tokens, number, head_dim])
        }
        ref shape => Err(Error::message(format!(
            "an array of shape {shape:?} is not (B, T, C) with {number} heads of {head_dim}"
        ))),
    }
}

/// The outputs of `layers` for `x` `(..., in)`, which ranks that have parts of them copy once.
pub(super) fn outputs_of<L: SplitLinear, const N: usize>(
    layers: [&L; N],
    x: &Array,
) -> Result<Outputs<N>> {
    let groups = layers.iter().map(|layer| match layer.split() {
        Some(LinearSplit { way: Way::Columns, group }) => Some(group),
        _ => None,
    });
    let group = groups.collect::<Option<Vec<_>>>().and_then(|groups| groups.first().copied());
    let x = match group {
        Some(group) => &group.copy_to_parallel(x)?,
        None => x,
    };
    let is_whole = |layer: &&L| layer.split().is_none();
    if (group.is_some() || layers.iter().all(is_whole)) && are_better_joined(&layers, x)? {
        let weights = layers.map(SplitLinear::weight);
        let widths = weights.map(|weight| weight.dim(0));
        let joined = affine(x, &concatenate(&weights, 0)?, None)?;
        return Ok(Outputs(Form::Joined(joined, widths)));
    }
    let outputs = layers.iter().map(|layer| match group {
        Some(_) => layer.affine(x, layer.bias()),
        None => layer.outputs(x),
    });
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let outputs = outputs.try_into().map_err(|_| Error::message("a layer has one output"))?;
    Ok(Outputs(Form::Apart(outputs)))
}

/// Whether one product is faster than one for each layer, for the rows of `x` `(..., in)`.
fn are_better_joined<L: SplitLinear>(layers: &[&L], x: &Array) -> Result<bool> {
    // With fewer rows, joining the weights takes longer than it saves.
    const FEWEST_ROWS: usize = 2048;
    // Products with larger weights fill a GPU by themselves.
    const LARGEST: usize = 1 << 24;
    let is_plain = |layer: &&L| layer.is_plain() && layer.weight().dtype() == x.dtype();
    let are_plain = layers.len() > 1 && layers.iter().all(is_plain);
    let size: usize = layers.iter().map(|layer| layer.weight().size()).sum();
    let num_rows = x.size() / x.shape().last().map_or(1, |&width| width.max(1) as usize);
    let is_worth_it = are_plain && num_rows >= FEWEST_ROWS && size <= LARGEST;
    Ok(is_worth_it && kernel_form(Family::Joined)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use mlx_rs::random;

    fn normal(shape: &[i32], seed: u64) -> Result<Array> {
        Ok(random::normal::<f32>(shape, None, None, Some(&random::key(seed)?))?)
    }

    /// What one product makes of `x` and weights, whatever the device.
    fn joined<const N: usize>(x: &Array, weights: &[Array]) -> Result<Outputs<N>> {
        let layers = weights.iter().map(|weight| weight.dim(0)).collect::<Vec<_>>();
        let widths = layers.try_into().map_err(|_| Error::message("other layers"))?;
        Ok(Outputs(Form::Joined(affine(x, &concatenate(weights, 0)?, None)?, widths)))
    }

    /// What each layer makes by itself.
    fn apart<const N: usize>(x: &Array, weights: &[Array]) -> Result<Outputs<N>> {
        let outputs = weights.iter().map(|weight| affine(x, weight, None));
        let outputs = outputs.collect::<Result<Vec<_>>>()?.try_into();
        Ok(Outputs(Form::Apart(outputs.map_err(|_| Error::message("other layers"))?)))
    }

    /// The arrays of `f` and the gradients, for `x` and the weights, of the sum of their sines, which weighs each number
    /// differently.
    fn with_gradients(
        inputs: &[Array],
        f: impl Fn(&[Array]) -> Result<Vec<Array>>,
    ) -> Result<Vec<Array>> {
        let sum = |inputs: &[Array]| {
            let mut sum = Array::from_f32(0.0);
            for output in f(inputs)? {
                sum = sum.add(output.sin()?.sum(None)?)?;
            }
            Ok(vec![sum])
        };
        let wanted: Vec<usize> = (0..inputs.len()).collect();
        let (_, gradients) = ffi::value_and_grad(sum, inputs, &wanted)?;
        Ok([f(inputs)?, gradients].concat())
    }

    fn agree(ours: &[Array], own: &[Array]) -> Result<()> {
        assert_eq!(ours.len(), own.len());
        for (index, (ours, own)) in ours.iter().zip(own).enumerate() {
            assert_eq!(ours.shape(), own.shape(), "{index}");
            let apart = ours.subtract(own)?.abs()?.max(None)?.try_item_exact::<f32>()?;
            assert!(apart < 2e-5, "{index}: {apart}");
        }
        Ok(())
    }

    #[test]
    fn one_product_makes_what_each_layer_does() -> Result<()> {
        let mut inputs = vec![normal(&[2, 5, 12], 1)?];
        for (seed, width) in [(2, 16), (3, 8), (4, 8)] {
            inputs.push(normal(&[width, 12], seed)?);
        }
        let ours = with_gradients(&inputs, |x| Ok(joined::<3>(&x[0], &x[1..])?.apart()?.into()))?;
        let own = with_gradients(&inputs, |x| Ok(apart::<3>(&x[0], &x[1..])?.apart()?.into()))?;
        agree(&ours, &own)?;
        let heads = |outputs: Outputs<3>| Ok(outputs.rotary_heads([4, 2], 4, 100.0, 3)?.into());
        let ours = with_gradients(&inputs, |x| heads(joined(&x[0], &x[1..])?))?;
        let own = with_gradients(&inputs, |x| heads(apart(&x[0], &x[1..])?))?;
        agree(&ours, &own)
    }

    #[test]
    fn a_gate_lets_through_what_one_product_made() -> Result<()> {
        let inputs = [normal(&[3, 6], 1)?, normal(&[10, 6], 2)?, normal(&[10, 6], 3)?];
        let ours = with_gradients(&inputs, |x| Ok(vec![joined(&x[0], &x[1..])?.swiglu()?]))?;
        let own = with_gradients(&inputs, |x| Ok(vec![apart(&x[0], &x[1..])?.swiglu()?]))?;
        agree(&ours, &own)
    }

    #[test]
    fn heads_that_do_not_fit_are_refused() -> Result<()> {
        let inputs = [normal(&[2, 5, 12], 1)?, normal(&[8, 12], 2)?, normal(&[8, 12], 3)?];
        let weights = [inputs[1].clone(), inputs[1].clone(), inputs[2].clone()];
        for outputs in [joined::<3>(&inputs[0], &weights)?, apart::<3>(&inputs[0], &weights)?] {
            let refused =
                outputs.rotary_heads([3, 2], 4, 100.0, 0).expect_err("8 is not 3 heads of 4");
            assert!(refused.to_string().contains("heads of 4"), "{refused}");
        }
        Ok(())
    }

    #[test]
    fn a_cpu_keeps_layers_apart() -> Result<()> {
        let x = normal(&[4096, 4], 1)?;
        let layer = Linear::of_weight(normal(&[4, 4], 2)?, None);
        let cpu = mlx_rs::Stream::cpu();
        let outputs = mlx_rs::with_stream(&cpu, || outputs_of([&layer, &layer], &x))?;
        assert!(matches!(outputs.0, Form::Apart(_)));
        Ok(())
    }
}
