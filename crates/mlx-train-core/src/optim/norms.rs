//! How large gradients are.

use super::arithmetic::{scalar, sum_of_squares};
use crate::Result;
use mlx_rs::Array;
use std::fmt;

/// The L2 norms of gradients, in f32 whatever their dtypes.
#[derive(Debug, Clone)]
pub struct GradientNorms {
    /// The norm of all of them together: a scalar `()`.
    pub total: Array,
    /// The square of the norm of each, in order: scalars `()`. One that is not finite says which
    /// parameter has a gradient with an infinity or a NaN, or one too large for its square to be an
    /// f32 (1e19).
    ///
    /// They are scalars, and squares, because that is what the total is made of: a vector of norms
    /// would cost a GPU two kernels for every parameter.
    pub squares: Vec<Array>,
}

/// How the norms of gradients are taken of which this process may hold parts alone.
#[derive(Clone, Copy, Default)]
pub struct Norms<'a> {
    across: Option<&'a Across<'a>>,
}

/// From the squares `()` of the parts that this process holds, of parameters of these names, to those of the whole.
type Across<'a> = dyn Fn(&[&str], Vec<Array>) -> Result<Vec<Array>> + 'a;

impl<'a> Norms<'a> {
    /// Of parts, the squares of whose norms `across` adds to those of the other parts: it gets names and squares
    /// `()` f32, and returns as many. By default gradients are whole.
    pub fn of_parts(across: &'a Across<'a>) -> Self {
        Self { across: Some(across) }
    }

    /// The norms of the gradients of these parameters, which stand in the same order.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn of(&self, names: &[&str], gradients: &[Array]) -> Result<GradientNorms> {
        let squares = gradients.iter().map(sum_of_squares).collect::<Result<Vec<_>>>()?;
        let squares = match self.across {
            None => squares,
            Some(across) => across(names, squares)?,
        };
        Ok(GradientNorms { total: sum_in_pairs(&squares)?.sqrt()?, squares })
    }
}

impl fmt::Debug for Norms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.across.is_some() { "parts" } else { "whole gradients" };
        f.debug_tuple("Norms").field(&of).finish()
    }
}

/// The norms of gradients, of any shapes. Nothing is read back, so the function can be traced.
///
/// # Errors
/// When MLX fails.
pub fn gradient_norms(gradients: &[Array]) -> Result<GradientNorms> {
    Norms::default().of(&[], gradients)
}

/// The sum `()` of scalars `()`, as a balanced tree, whose error grows with the logarithm of their number.
fn sum_in_pairs(scalars: &[Array]) -> Result<Array> {
    let mut sums = scalars.to_vec();
    while sums.len() > 1 {
        let pairs = sums.chunks(2).map(|pair| match pair {
            [a, b] => Ok(a.add(b)?),
            odd => Ok(odd[0].clone()),
        });
        sums = pairs.collect::<Result<_>>()?;
    }
    Ok(sums.pop().unwrap_or_else(|| scalar(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(scalars: &[Array]) -> Result<Vec<f32>> {
        scalars.iter().map(|scalar| Ok(scalar.try_item_exact::<f32>()?)).collect()
    }

    /// Numbers that look random, with squares of every size, and what f64 says their norm is.
    fn gradient(shape: &[i32]) -> (Array, f64) {
        let count: i32 = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i| ((i.wrapping_mul(1_103_515_245) >> 8) & 0xffff) as f32 / 65_536.0 + 0.5)
            .collect();
        let norm = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        (Array::from_slice(&values, shape), norm)
    }

    #[test]
    fn the_norm_of_a_million_elements_is_right_to_a_millionth() -> Result<()> {
        for shape in [
            &[1 << 20][..],
            &[1024, 1024],
            &[4, 1 << 18],
            &[1 << 18, 4],
            &[256, 4096],
            &[1_048_573],
        ] {
            let (array, expected) = gradient(shape);
            let norm = f64::from(gradient_norms(&[array])?.total.try_item_exact::<f32>()?);
            let error = (norm / expected - 1.0).abs();
            assert!(error < 1e-6, "{shape:?}: {norm} instead of {expected}, off by {error:.1e}");
        }
        Ok(())
    }

    #[test]
    fn scalars_empty_arrays_and_views_are_counted() -> Result<()> {
        let (matrix, squared) = gradient(&[3, 5]);
        let empty = Array::zeros::<f32>(&[0, 3])?;
        let norms = gradient_norms(&[matrix.transpose()?, scalar(2.0), empty])?;
        let total = f64::from(norms.total.try_item_exact::<f32>()?);
        assert!((total - squared.hypot(2.0)).abs() < 1e-6, "{total}");
        assert_eq!(values(&norms.squares[1..])?, [4.0, 0.0]);
        let none = gradient_norms(&[])?;
        assert_eq!((none.squares.len(), values(&[none.total])?), (0, vec![0.0]));
        Ok(())
    }

    #[test]
    fn the_gradient_that_is_not_finite_is_told_by_its_place() -> Result<()> {
        let bad = Array::from_slice(&[1.0, f32::NAN], &[2]);
        let norms = gradient_norms(&[scalar(1.0), bad, scalar(f64::INFINITY)])?;
        let is_finite: Vec<bool> = values(&norms.squares)?.iter().map(|x| x.is_finite()).collect();
        assert_eq!(is_finite, [true, false, false]);
        assert!(norms.total.try_item_exact::<f32>()?.is_nan());
        Ok(())
    }
}
