//! What several linear layers make of one input.

use super::{
    linear::affine,
    rotary,
    split::{LinearSplit, SplitLinear, Way},
    swiglu,
};
use crate::{
    Array, Error, Result, ffi,
    kernels::{Family, kernel_form, rotary::Rotation, swiglu::Swiglu},
};
use mlx_rs::ops::{concatenate, split_at_indices};
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

    /// `swiglu() weightᵀ`, where a kernel makes it of what lies beside each other.
    pub(super) fn swiglu_product(&self, weight: &Array) -> Result<Option<Array>> {
        let Form::Joined(joined, [gate, up]) = &self.0 else { return Ok(None) };
        if gate != up || weight.dtype() != joined.dtype() {
            return Ok(None);
        }
        match Swiglu::of_joined(joined)? {
            Some(kernels) => kernels.product(joined, weight).map(Some),
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
    let are_plain =
        layers.iter().all(|layer| layer.is_plain() && layer.weight().dtype() == x.dtype());
    let size: usize = layers.iter().map(|layer| layer.weight().size()).sum();
    let num_rows = x.size() / x.shape().last().map_or(1, |&width| width.max(1) as usize);
    let is_worth_it = are_plain && num_rows >= FEWEST_ROWS && size <= LARGEST;
    Ok(is_worth_it && kernel_form(Family::Joined)?.is_some())
}
