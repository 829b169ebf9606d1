//! Clipping gradients by their global norm.

use super::{OptimError, scalar, working_dtype};
use crate::{Result, loss::sum_f32};
use mlx_rs::{Array, Dtype, ops::minimum};

/// Scales gradients so that their global L2 norm is at most `max_norm`; returns them and the norm
/// that they had, a scalar `()` f32.
///
/// `g * min(1, max_norm / (norm + 1e-6))`; shapes and dtypes stay. Nothing is read back, so the
/// function can be traced. A norm that is not finite gives gradients that are not finite.
/// Source: Pascanu et al., arXiv:1211.5063, algorithm 1; the constant is Python MLX's.
///
/// # Errors
/// [`OptimError`] unless `max_norm` is positive and finite; when MLX fails.
pub fn clip_grad_norm(gradients: &[Array], max_norm: f64) -> Result<(Vec<Array>, Array)> {
    if !(max_norm > 0.0 && max_norm.is_finite()) {
        let expected = "positive and finite";
        return Err(OptimError { setting: "the norm to clip to", value: max_norm, expected }.into());
    }
    let norm = grad_norm(gradients)?;
    let scale = scalar(max_norm).divide(norm.add(scalar(1e-6))?)?;
    let scale = minimum(scale, scalar(1.0))?;
    let clipped = gradients
        .iter()
        // In f32: as bf16 the scale alone would be off by up to 0.4 %.
        .map(|g| Ok(g.as_dtype(working_dtype(g))?.multiply(&scale)?.as_dtype(g.dtype())?))
        .collect::<Result<_>>()?;
    Ok((clipped, norm))
}

/// The global L2 norm of gradients: a scalar `()` f32, summed in f32 whatever their dtypes.
///
/// # Errors
/// When MLX fails.
pub fn grad_norm(gradients: &[Array]) -> Result<Array> {
    let mut total = scalar(0.0);
    for gradient in gradients {
        total = total.add(sum_of_squares(gradient)?)?;
    }
    Ok(total.sqrt()?)
}

/// Rows up to this long are added up as they lie; an f32 sum loses digits with its length.
const LONGEST_ROW: i32 = 4096;

/// The sum `()` of squares of an array of any shape, f32.
fn sum_of_squares(x: &Array) -> Result<Array> {
    let mut sums = x.as_dtype(Dtype::Float32)?.square()?;
    // Gradients of a weight are often transposed views: rows first, so that little is copied.
    while sums.ndim() > 1 && sums.dim(-1) <= LONGEST_ROW {
        sums = sums.sum_axis(-1, false)?;
    }
    // MLX's own sum over all elements is wrong in the fourth digit on a CPU.
    sum_f32(&sums)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let norm = f64::from(grad_norm(&[array])?.try_item_exact::<f32>()?);
            let error = (norm / expected - 1.0).abs();
            assert!(error < 1e-6, "{shape:?}: {norm} instead of {expected}, off by {error:.1e}");
        }
        Ok(())
    }

    #[test]
    fn scalars_empty_arrays_and_views_are_counted() -> Result<()> {
        let (matrix, squared) = gradient(&[3, 5]);
        let empty = Array::zeros::<f32>(&[0, 3])?;
        let all = [matrix.transpose()?, scalar(2.0), empty];
        let norm = f64::from(grad_norm(&all)?.try_item_exact::<f32>()?);
        assert!((norm - squared.hypot(2.0)).abs() < 1e-6, "{norm}");
        Ok(())
    }

    #[test]
    fn clipping_shrinks_long_gradients_and_leaves_short_ones() -> Result<()> {
        let gradients =
            [scalar(3.0), Array::from_slice(&[4.0_f32], &[1]).as_dtype(Dtype::Bfloat16)?];
        let (clipped, norm) = clip_grad_norm(&gradients, 1.0)?;
        assert!((norm.try_item_exact::<f32>()? - 5.0).abs() < 1e-6);
        assert!((clipped[0].try_item_exact::<f32>()? - 0.6).abs() < 1e-6);
        assert_eq!(clipped[1].dtype(), Dtype::Bfloat16);
        let (same, _) = clip_grad_norm(&gradients, 10.0)?;
        assert_eq!(same[0].try_item_exact::<f32>()?.to_bits(), 3.0_f32.to_bits());
        Ok(())
    }

    #[test]
    fn a_norm_that_cannot_be_clipped_to_is_refused_by_value() {
        for max_norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refused = clip_grad_norm(&[], max_norm).expect_err("refused").to_string();
            assert!(refused.contains(&max_norm.to_string()), "{refused}");
        }
    }
}
