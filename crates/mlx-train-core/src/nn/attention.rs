//! Attention, in the form that the backend computes fastest.
//!
//! On a GPU it is MLX's fused kernel. On a CPU, MLX takes the softmax of all scores, masked ones included, one number
//! after the other. There, where exponentials are better taken as powers (see `exponential.rs`), this takes queries in
//! blocks: of later keys there are no scores. Rows are divided by their sums when they have the width of a head, and
//! the backward pass goes over the scores twice: for a subtraction and a product.
//! Shape letters: B batch, H heads, K heads of keys, R = H / K, T queries, S keys, D head size; t and s of a block.

use crate::{
    Array, Error, Result,
    exponential::{is_power, power_of_e, row_sum},
    ffi::{self, Backward},
};
use mlx_rs::{
    Dtype,
    fast::{ScaledDotProductAttentionMask as Mask, scaled_dot_product_attention},
    ops::{
        arange, concatenate,
        indexing::{Ellipsis, TryIndexOp},
        matmul, maximum, select, zeros_dtype,
    },
};
use std::ops::Range;

/// How many queries a block has. With 256 queries, two blocks save a quarter of all scores, four save more of them
/// and lose it again in products of small matrices.
const BLOCK: i32 = 128;

/// `softmax(scale q kᵀ) v`: queries `(B, H, T, D)`, keys and values `(B, K, S, D)`, result `(B, H, T, D)` in their dtype.
///
/// Without a mask, attention is causal: the queries belong to the last T of S positions, and each sees the keys up
/// to its own. Otherwise each sees the keys for which `mask`, bool and of shape `(B, 1, T, S)`, is true, of which there
/// has to be one. K divides H; H / K heads in a row share the keys of one.
///
/// Source: Vaswani et al., arXiv:1706.03762, section 3.2.1; grouped queries from arXiv:2305.13245.
///
/// # Errors
/// When shapes do not fit, or MLX fails.
pub fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Option<&Array>,
) -> Result<Array> {
    if !is_in_parts(q, k, v)? {
        let mask = mask.map_or(Mask::Causal, Mask::Array);
        return Ok(scaled_dot_product_attention(q, k, v, scale, mask, None)?);
    }
    let (num_heads, num_kv_heads, head_dim) = (q.dim(1), k.dim(1), v.dim(3));
    let (batch, num_queries) = (q.dim(0), q.dim(2));
    let per_key = num_heads / num_kv_heads;
    let mut inputs = vec![q.clone(), k.clone(), v.clone()];
    inputs.extend(mask.cloned());
    if per_key > 1 {
        inputs[0] = q.reshape(&[batch, num_kv_heads, per_key, num_queries, q.dim(3)])?;
        for array in &mut inputs[1..] {
            *array = array.expand_dims(2)?; // (B, K, 1, S, D)
        }
    }
    let forward = move |inputs: &[Array]| Blocks::of(inputs, scale)?.forward();
    let backward = move |pass: Backward<'_>| Blocks::of(pass.inputs, scale)?.backward(&pass);
    let mixed = ffi::custom_vjp(forward, backward, &inputs)?.swap_remove(0);
    Ok(mixed.reshape(&[batch, num_heads, num_queries, head_dim])?)
}

/// Whether attention is better taken in parts. What does not fit together, MLX refuses.
fn is_in_parts(q: &Array, k: &Array, v: &Array) -> Result<bool> {
    let (&[rows, num_heads, num_queries, head_dim], &[key_rows, num_kv_heads, num_keys, key_dim]) =
        (q.shape(), k.shape())
    else {
        return Ok(false);
    };
    let fits = rows == key_rows
        && head_dim == key_dim
        && num_heads.checked_rem(num_kv_heads) == Some(0)
        && num_queries <= num_keys
        && v.shape().get(..3) == k.shape().get(..3);
    // One query, as in generation, has few scores.
    let is_worth_it = num_queries > 1 && k.dtype() == q.dtype() && v.dtype() == q.dtype();
    Ok(fits && is_worth_it && is_power(q)?)
}

/// Queries in blocks, each with the keys that it sees.
struct Blocks<'a> {
    /// `(..., T, D)`, multiplied by the scale.
    q: Array,
    /// `(..., S, D)`.
    k: &'a Array,
    v: &'a Array,
    /// `(..., T, S)` bool, if attention is not causal.
    mask: Option<&'a Array>,
    scale: f32,
}

impl<'a> Blocks<'a> {
    fn of(inputs: &'a [Array], scale: f32) -> Result<Self> {
        let [q, k, v, mask @ ..] = inputs else {
            return Err(Error::message("MLX lost an input of attention"));
        };
        let q = q.multiply(Array::from_f32(scale))?;
        Ok(Self { q, k, v, mask: mask.first(), scale })
    }

    /// The blocks of queries, and how many keys each sees.
    fn each(&self) -> impl Iterator<Item = (Range<i32>, i32)> {
        let (num_queries, num_keys) = (self.q.dim(-2), self.k.dim(-2));
        let size = if self.mask.is_some() { num_queries } else { BLOCK };
        (0..num_queries).step_by(size as usize).map(move |start| {
            let end = num_queries.min(start + size);
            (start..end, num_keys - num_queries + end)
        })
    }

    /// What is added to the scores of queries for keys `0..num_keys`: 0 for those that they see, else minus infinity.
    fn bias(&self, queries: &Range<i32>, num_keys: i32) -> Result<Array> {
        let sees = if let Some(mask) = self.mask {
            mask.clone()
        } else {
            let first = num_keys - queries.end + queries.start;
            let position = arange::<_, i32>(first, num_keys, None)?.expand_dims(1)?; // (t, 1)
            position.ge(arange::<_, i32>(None, num_keys, None)?)? // (t, s)
        };
        Ok(select(sees, Array::from_f32(0.0), Array::from_f32(f32::NEG_INFINITY))?)
    }

    /// The result `(..., T, D)`; then of each block the exponentials of its scores less the largest of the row, `(..., t, s)`,
    /// and one divided by their sums, `(..., t, 1)`.
    fn forward(&self) -> Result<Vec<Array>> {
        let (mut mixed, mut kept) = (Vec::new(), Vec::new());
        for (queries, num_keys) in self.each() {
            let (k, v) = (rows(self.k, 0..num_keys)?, rows(self.v, 0..num_keys)?);
            let scores = matmul(rows(&self.q, queries.clone())?, k.swap_axes(-1, -2)?)?;
            let scores = scores.add(self.bias(&queries, num_keys)?)?; // (..., t, s)
            let largest = maximum(scores.max_axis(-1, true)?, Array::from_f32(f32::MIN))?;
            let powers = power_of_e(&scores.subtract(largest)?)?;
            let sum = maximum(row_sum(&powers)?, Array::from_f32(f32::MIN_POSITIVE))?;
            let share = sum.reciprocal()?;
            mixed.push(matmul(&powers, v)?.multiply(&share)?);
            kept.extend([powers, share]);
        }
        let mut outputs = vec![concatenate(&mixed, -2)?];
        outputs.append(&mut kept);
        Ok(outputs)
    }

    /// The gradients of the inputs.
    fn backward(&self, pass: &Backward<'_>) -> Result<Vec<Array>> {
        let (mixed, kept) = (&pass.outputs[0], &pass.outputs[1..]);
        let (mut d_q, mut d_k, mut d_v) = (Vec::new(), None, None);
        for ((queries, num_keys), kept) in self.each().zip(kept.chunks_exact(2)) {
            let (powers, share) = (&kept[0], &kept[1]);
            let (k, v) = (rows(self.k, 0..num_keys)?, rows(self.v, 0..num_keys)?);
            let d_mixed = rows(&pass.cotangents[0], queries.clone())?.multiply(share)?;
            let transposed = powers.swap_axes(-1, -2)?; // (..., s, t)
            d_v = Some(add_rows(d_v, matmul(transposed, &d_mixed)?)?);
            let along = d_mixed.multiply(rows(mixed, queries.clone())?)?;
            let along = along.sum_axis(-1, true)?; // (..., t, 1)
            let d_scores = matmul(&d_mixed, v.swap_axes(-1, -2)?)?.subtract(along)?;
            let d_scores = d_scores.multiply(powers)?; // (..., t, s)
            d_q.push(matmul(&d_scores, k)?);
            let transposed = d_scores.swap_axes(-1, -2)?;
            d_k = Some(add_rows(d_k, matmul(transposed, rows(&self.q, queries)?)?)?);
        }
        let d_q = concatenate(&d_q, -2)?.multiply(Array::from_f32(self.scale))?;
        let mut gradients = vec![d_q];
        for (gradient, input) in [d_k, d_v].into_iter().flatten().zip([self.k, self.v]) {
            // Heads that share keys.
            let is_shared = gradient.ndim() == 5;
            let sum = || if is_shared { gradient.sum_axis(2, true) } else { Ok(gradient.clone()) };
            gradients.push(sum()?.reshape(input.shape())?);
        }
        if let Some(mask) = self.mask {
            gradients.push(zeros_dtype(mask.shape(), Dtype::Bool)?);
        }
        Ok(gradients)
    }
}

/// Some rows of `x` `(..., T, D)`.
fn rows(x: &Array, rows: Range<i32>) -> Result<Array> {
    if rows == (0..x.dim(-2)) {
        return Ok(x.clone());
    }
    Ok(x.try_index((Ellipsis, rows, ..))?)
}

/// `sum` `(..., s, D)` with zeros below, added to `x`, which has at least as many rows.
fn add_rows(sum: Option<Array>, x: Array) -> Result<Array> {
    let Some(sum) = sum else { return Ok(x) };
    let num_rows = sum.dim(-2);
    let above = rows(&x, 0..num_rows)?.add(sum)?;
    if num_rows == x.dim(-2) {
        return Ok(above);
    }
    Ok(concatenate(&[above, rows(&x, num_rows..x.dim(-2))?], -2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::random;

    const SCALE: f32 = 0.3;

    fn normal(shape: &[i32], seed: u64) -> Array {
        let key = random::key(seed).unwrap();
        random::normal::<f32>(shape, None, None, Some(&key)).unwrap()
    }

    /// Queries, keys and values of 2 rows and heads of 8.
    fn inputs([heads, kv_heads]: [i32; 2], [queries, keys]: [i32; 2]) -> [Array; 3] {
        let kv = |seed| normal(&[2, kv_heads, keys, 8], seed);
        [normal(&[2, heads, queries, 8], 1), kv(2), kv(3)]
    }

    /// The result of `f` and the gradients of the sum of its sines, which weighs each number differently.
    fn with_gradients(f: impl Fn(&[Array]) -> Result<Array>, inputs: &[Array; 3]) -> Vec<Array> {
        let sum = |x: &[Array]| Ok(vec![f(x)?.sin()?.sum(None)?]);
        let (_, gradients) = ffi::value_and_grad(sum, inputs, &[0, 1, 2]).unwrap();
        [vec![f(inputs).unwrap()], gradients].concat()
    }

    fn agrees_with_mlx(inputs: &[Array; 3], mask: Option<&Array>) {
        let ours = with_gradients(|x| attention(&x[0], &x[1], &x[2], SCALE, mask), inputs);
        let own = |x: &[Array]| {
            let mask = mask.map_or(Mask::Causal, Mask::Array);
            Ok(scaled_dot_product_attention(&x[0], &x[1], &x[2], SCALE, mask, None)?)
        };
        let own = with_gradients(own, inputs);
        for (index, ((ours, own), tolerance)) in
            ours.iter().zip(&own).zip([1e-6, 1e-5, 1e-5, 1e-5]).enumerate()
        {
            assert_eq!((ours.shape(), ours.dtype()), (own.shape(), own.dtype()), "{index}");
            let difference = ours.subtract(own).unwrap().abs().unwrap().max(None).unwrap();
            let difference = difference.try_item_exact::<f32>().unwrap();
            assert!(difference <= tolerance, "{index}: {difference}");
        }
    }

    #[test]
    fn it_is_mlxs_attention_in_value_and_gradients_whatever_the_blocks() {
        for lengths in
            [[1, 1], [2, 2], [7, 7], [128, 128], [129, 129], [300, 300], [5, 9], [150, 290]]
        {
            agrees_with_mlx(&inputs([2, 2], lengths), None);
        }
    }

    #[test]
    fn heads_that_share_keys_get_the_sum_of_their_gradients() {
        for heads in [[4, 2], [3, 1]] {
            agrees_with_mlx(&inputs(heads, [130, 130]), None);
        }
    }

    #[test]
    fn a_mask_says_who_sees_whom() {
        let visible =
            |row: i32, query: i32, key: i32| query == key || (query * 7 + key * 3 + row) % 4 == 0;
        let all = (0..2)
            .flat_map(|row| (0..9).flat_map(move |q| (0..9).map(move |k| visible(row, q, k))));
        let mask = Array::from_slice(&all.collect::<Vec<bool>>(), &[2, 1, 9, 9]);
        agrees_with_mlx(&inputs([2, 2], [9, 9]), Some(&mask));
        agrees_with_mlx(&inputs([4, 2], [9, 9]), Some(&mask));
    }

    #[test]
    fn large_scores_stay_finite() {
        let [q, k, v] = inputs([2, 2], [20, 20]);
        let q = q.multiply(Array::from_f32(1e4)).unwrap();
        let all = with_gradients(|x| attention(&x[0], &x[1], &x[2], SCALE, None), &[q, k, v]);
        for array in all {
            let finite = array.is_finite().unwrap().all(None).unwrap();
            assert!(finite.try_item_exact::<bool>().unwrap());
        }
    }

    #[test]
    fn half_types_stay_what_they_are() {
        let half = inputs([2, 2], [4, 4]).map(|x| x.as_dtype(Dtype::Bfloat16).unwrap());
        let mixed = attention(&half[0], &half[1], &half[2], SCALE, None).unwrap();
        assert_eq!((mixed.dtype(), mixed.shape()), (Dtype::Bfloat16, &[2, 2, 4, 8][..]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let [q, k, v] = inputs([2, 2], [4, 4]);
        let wide = normal(&[2, 2, 4, 16], 4);
        assert!(attention(&wide, &k, &v, SCALE, None).is_err());
        let three = normal(&[2, 3, 4, 8], 5);
        assert!(attention(&q, &three, &three, SCALE, None).is_err());
    }
}
