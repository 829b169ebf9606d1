//! Muon: momentum whose matrices are made orthogonal.

use super::{
    Coefficients, OptimError, Optimizer, Parameter, WeightDecay,
    arithmetic::{moving_average, scalar, shares, sum_of_squares, working_dtype, zero_state},
    error::check_kept,
    state::foreign,
};
use crate::Result;
use mlx_rs::{Array, ops::addmm};

/// Muon (momentum, orthogonalized by Newton-Schulz), for the hidden matrices of a network.
///
/// With gradient `g` and learning rate `a`:
///
/// ```text
/// g = g + decay w                v = momentum v + (1 - momentum) g
/// u = v                          (Nesterov: (1 - momentum) g + momentum v)
/// w = w - a sqrt(max(1, rows / columns)) orthogonalized(u)
/// ```
///
/// `orthogonalized` moves all singular values of a matrix towards 1 by a few steps of a quintic
/// iteration, so that an update has the same size in every direction. A parameter with more than
/// two axes is a matrix of its first axis against the others. One with fewer than two axes takes
/// the step without it: give those, embeddings and the output layer to AdamW, as
/// [`MuonWithAdamW`](super::MuonWithAdamW) does.
///
/// State: `v`, of the parameter's shape. Source: Jordan et al., "Muon: An optimizer for hidden
/// layers in neural networks" (2024), <https://kellerjordan.github.io/posts/muon/>; the numbers are
/// those of Python MLX's `Muon`, whose decay is part of the gradient and whose rows and columns are
/// the last two axes of the parameter. With [`Muon::decoupled_decay`], `w` shrinks by `a decay`
/// instead, as in the authors' own program.
#[derive(Debug, Clone, PartialEq)]
pub struct Muon {
    momentum: f64,
    nesterov: bool,
    iterations: usize,
    weight_decay: WeightDecay,
    decoupled_decay: bool,
}

impl Default for Muon {
    /// Nesterov momentum 0.95, 5 iterations, weight decay 0.01: Python MLX's defaults.
    fn default() -> Self {
        let weight_decay = WeightDecay::HUNDREDTH;
        let decoupled_decay = false;
        Self { momentum: 0.95, nesterov: true, iterations: 5, weight_decay, decoupled_decay }
    }
}

impl Muon {
    /// Sets how much of the velocity a step keeps, and whether it looks ahead as Nesterov's does.
    ///
    /// # Errors
    /// [`OptimError`] unless `momentum` is in `0..1`.
    pub fn momentum(self, momentum: f64, nesterov: bool) -> Result<Self> {
        Ok(Self { momentum: check_kept("momentum of Muon", momentum)?, nesterov, ..self })
    }

    /// Sets how many steps the Newton-Schulz iteration takes.
    ///
    /// # Errors
    /// [`OptimError`] unless there are 1 to 100.
    pub fn iterations(self, iterations: usize) -> Result<Self> {
        if (1..=100).contains(&iterations) {
            return Ok(Self { iterations, ..self });
        }
        let (setting, expected) = ("the number of iterations of Muon", "1 to 100");
        Err(OptimError::Setting { setting, value: iterations as f64, expected }.into())
    }

    /// Sets the weight decay, which is a part of the gradient unless it is decoupled.
    #[must_use]
    pub fn weight_decay(self, weight_decay: WeightDecay) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets whether decay shrinks the weights themselves, by `learning rate * decay`.
    #[must_use]
    pub fn decoupled_decay(self, decoupled_decay: bool) -> Self {
        Self { decoupled_decay, ..self }
    }
}

impl Optimizer for Muon {
    fn state_names(&self, _parameter: Parameter<'_>) -> &'static [&'static str] {
        &["v"]
    }

    fn init(&self, parameter: Parameter<'_>) -> Result<Vec<Array>> {
        zero_state(parameter, &[parameter.value.shape()])
    }

    fn coefficients(&self, learning_rate: &Array, _step: &Array) -> Result<Coefficients> {
        let [kept, added] = shares(self.momentum);
        Ok(Coefficients::new(vec![learning_rate.clone(), kept, added]).resting(&[0.0, 1.0, 0.0]))
    }

    fn update(
        &self,
        parameter: Parameter<'_>,
        gradient: &Array,
        state: &[Array],
        coefficients: &Coefficients,
    ) -> Result<(Array, Vec<Array>)> {
        let ([v], [learning_rate, kept, added]) = (state, coefficients.own()) else {
            return Err(foreign(parameter.name, "Muon"));
        };
        let dtype = working_dtype(parameter.value);
        let mut w = parameter.value.as_dtype(dtype)?;
        let mut g = gradient.as_dtype(dtype)?;
        match self.weight_decay.of(parameter).map(scalar) {
            Some(decay) if self.decoupled_decay => {
                w = w.multiply(scalar(1.0).subtract(learning_rate.multiply(decay)?)?)?;
            }
            Some(decay) => g = g.add(w.multiply(decay)?)?,
            None => {}
        }
        let v = moving_average(v, &g, [kept, added])?;
        let mut change =
            if self.nesterov { moving_average(&v, &g, [kept, added])? } else { v.clone() };
        let shape = parameter.value.shape();
        if let [.., rows, columns] = *shape {
            let matrix = change.reshape(&[shape[0], -1])?;
            let orthogonal = orthogonalized(&matrix, self.iterations)?.reshape(shape)?;
            let scale = (f64::from(rows) / f64::from(columns)).max(1.0).sqrt();
            change = orthogonal.multiply(scalar(scale))?;
        }
        let w = w.subtract(learning_rate.multiply(change)?)?;
        Ok((w.as_dtype(parameter.value.dtype())?, vec![v]))
    }
}

/// The coefficients of the quintic `a x + b x³ + c x⁵`, which are chosen to rise as fast as possible
/// at 0: singular values end between 0.7 and 1.2, and not at 1. Source: Jordan et al. (2024).
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// A matrix `(rows, columns)` whose singular values have moved towards 1, by Newton-Schulz.
fn orthogonalized(x: &Array, iterations: usize) -> Result<Array> {
    // X Xᵀ is the smaller of the two products for a wide matrix.
    let is_tall = x.dim(0) > x.dim(1);
    let mut x = if is_tall { x.transpose()? } else { x.clone() };
    let norm = sum_of_squares(&x)?.sqrt()?;
    x = x.divide(norm.add(scalar(1e-7))?)?;
    let [a, b, c] = QUINTIC;
    for _ in 0..iterations {
        let squared = x.matmul(x.transpose()?)?;
        let polynomial = addmm(squared.multiply(scalar(b))?, &squared, &squared, c as f32, 1.0)?;
        x = addmm(x.multiply(scalar(a))?, polynomial, &x, 1.0, 1.0)?;
    }
    if is_tall { Ok(x.transpose()?) } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_of_any_size_end_near_one() -> Result<()> {
        // A permuted diagonal, whose singular values are its three numbers, wide and tall.
        let values = [0.0, 10.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0, 2.0, 0.0, 0.0, 0.0_f32];
        let wide = Array::from_slice(&values, &[3, 4]);
        for x in [wide.clone(), wide.transpose()?] {
            let y = orthogonalized(&x, 5)?;
            assert_eq!(y.shape(), x.shape());
            let (x, y) = (x.contiguous()?, y.contiguous()?);
            for (x, y) in x.try_as_slice::<f32>()?.iter().zip(y.try_as_slice::<f32>()?) {
                let is_right =
                    if *x == 0.0 { y.abs() < 1e-6 } else { (0.6..1.3).contains(&(y * x.signum())) };
                assert!(is_right, "{x} became {y}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_gradient_of_zeros_moves_nothing() -> Result<()> {
        let zeros = orthogonalized(&Array::zeros::<f32>(&[3, 2])?, 5)?;
        assert_eq!(zeros.contiguous()?.try_as_slice::<f32>()?, [0.0; 6]);
        Ok(())
    }
}
