//! Clipping gradients by value and by their global norm.

use super::{
    GradientNorms, Norms,
    arithmetic::{scalar, working_dtype},
    error::check_positive,
    lanes::Lanes,
};
use crate::Result;
use mlx_rs::{
    Array,
    ops::{self, minimum},
};

/// How gradients are kept from being too large: by value, then by norm. The default leaves them.
///
/// Groups of parameters may have norms of their own, which come after these: see
/// [`Group::max_grad_norm`](super::Group::max_grad_norm).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Clip {
    value: Option<f64>,
    global_norm: Option<f64>,
}

/// Gradients that were clipped, and what they were before.
#[derive(Debug, Clone)]
pub struct Clipped {
    /// The gradients that an optimizer takes, of the same shapes and dtypes.
    pub gradients: Vec<Array>,
    /// The norms before clipping.
    pub norms: GradientNorms,
}

impl Clip {
    /// Limits every element to `-value..=value`.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless `value` is positive and finite in f32.
    pub fn value(self, value: f64) -> Result<Self> {
        let value = check_positive("the value to clip to", value)?;
        Ok(Self { value: Some(value), ..self })
    }

    /// Scales all gradients so that their global L2 norm is at most `max_norm`:
    /// `g * min(1, max_norm / (norm + 1e-6))`.
    ///
    /// Source: Pascanu et al., arXiv:1211.5063, algorithm 1; the constant is Python MLX's.
    ///
    /// # Errors
    /// [`OptimError`](super::OptimError) unless `max_norm` is positive and finite in f32.
    pub fn global_norm(self, max_norm: f64) -> Result<Self> {
        let max_norm = check_positive("the norm to clip to", max_norm)?;
        Ok(Self { global_norm: Some(max_norm), ..self })
    }

    /// Clips gradients of any shapes. Nothing is read back, so the function can be traced.
    ///
    /// Norms that are not finite say that the gradients are not, whatever clipping makes of them.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply(self, gradients: &[Array]) -> Result<Clipped> {
        self.apply_by(Norms::default(), &[], gradients)
    }

    /// As [`Clip::apply`], of gradients of parameters of these names, by norms that `norms` takes: those of whole
    /// gradients where this process holds parts.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply_by(
        self,
        norms_of: Norms<'_>,
        names: &[&str],
        gradients: &[Array],
    ) -> Result<Clipped> {
        let norms = norms_of.of(names, gradients)?;
        self.apply_with(norms, norms_of, names, gradients)
    }

    /// As [`Clip::apply_by`] with the norms of the gradients before they are clipped, where those are known.
    ///
    /// # Errors
    /// When MLX fails.
    pub(crate) fn apply_with(
        self,
        norms: GradientNorms,
        norms_of: Norms<'_>,
        names: &[&str],
        gradients: &[Array],
    ) -> Result<Clipped> {
        let limited = match self.value {
            None => gradients.to_vec(),
            Some(value) => {
                let limits = (&scalar(-value), &scalar(value));
                let limit = |g: &Array| Ok(ops::clip(g, limits)?.as_dtype(g.dtype())?);
                gradients.iter().map(limit).collect::<Result<_>>()?
            }
        };
        let gradients = match self.global_norm {
            None => limited,
            Some(max_norm) if self.value.is_none() => {
                scaled_to_norm(&limited, &norms.total, max_norm)?
            }
            Some(max_norm) => {
                let norm = norms_of.of(names, &limited)?.total;
                scaled_to_norm(&limited, &norm, max_norm)?
            }
        };
        Ok(Clipped { gradients, norms })
    }
}

/// Gradients of this global norm, scaled so that it is at most `max_norm`.
pub(super) fn scaled_to_norm(
    gradients: &[Array],
    norm: &Array,
    max_norm: f64,
) -> Result<Vec<Array>> {
    let scale = scalar(max_norm).divide(norm.add(scalar(1e-6))?)?;
    let scale = minimum(scale, scalar(1.0))?;
    // In f32: as bf16 the scale alone would be off by up to 0.4 %.
    let scaled =
        |g: &Array| Ok(g.as_dtype(working_dtype(g))?.multiply(&scale)?.as_dtype(g.dtype())?);
    Lanes::map(gradients, scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::Dtype;

    fn gradients() -> Result<[Array; 2]> {
        let half = Array::from_slice(&[4.0_f32, -0.5], &[2]).as_dtype(Dtype::Bfloat16)?;
        Ok([scalar(3.0), half])
    }

    fn values(array: &Array) -> Result<Vec<f32>> {
        Ok(array.as_dtype(Dtype::Float32)?.try_as_slice::<f32>()?.to_vec())
    }

    #[test]
    fn a_long_gradient_is_scaled_to_the_norm_and_a_short_one_stays() -> Result<()> {
        let clipped = Clip::default().global_norm(1.0)?.apply(&gradients()?)?;
        let norm = clipped.norms.total.try_item_exact::<f32>()?;
        assert!((norm - 25.25_f32.sqrt()).abs() < 1e-6, "{norm}");
        assert_eq!(clipped.gradients[1].dtype(), Dtype::Bfloat16);
        let first = clipped.gradients[0].try_item_exact::<f32>()?;
        assert!((first - 3.0 / norm).abs() < 1e-6, "{first}");
        let same = Clip::default().global_norm(10.0)?.apply(&gradients()?)?;
        assert_eq!(values(&same.gradients[1])?, [4.0, -0.5]);
        Ok(())
    }

    #[test]
    fn values_are_limited_before_the_norm_is_taken() -> Result<()> {
        let by_value = Clip::default().value(1.0)?;
        let clipped = by_value.apply(&gradients()?)?;
        assert_eq!(values(&clipped.gradients[1])?, [1.0, -0.5]);
        assert_eq!(clipped.gradients[1].dtype(), Dtype::Bfloat16);
        // The norm that is reported is that before; the one that scales is sqrt(1 + 1 + 0.25) = 1.5.
        let both = by_value.global_norm(0.75)?.apply(&gradients()?)?;
        assert!((both.norms.total.try_item_exact::<f32>()? - 25.25_f32.sqrt()).abs() < 1e-6);
        assert_eq!(values(&both.gradients[1])?, [0.5, -0.25]);
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_not_finite_shows_in_the_norms_though_values_are_limited() -> Result<()> {
        let clip = Clip::default().value(1.0)?.global_norm(1.0)?;
        let norms = clip.apply(&[scalar(1.0), scalar(f64::INFINITY)])?.norms;
        assert!(norms.total.try_item_exact::<f32>()?.is_infinite());
        assert!(norms.squares[1].try_item_exact::<f32>()?.is_infinite());
        Ok(())
    }

    #[test]
    fn a_limit_that_cannot_be_clipped_to_is_refused_by_value() {
        for limit in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
            for refused in [Clip::default().global_norm(limit), Clip::default().value(limit)] {
                let refused = refused.expect_err("refused").to_string();
                assert!(refused.contains(&limit.to_string()), "{refused}");
            }
        }
    }
}
