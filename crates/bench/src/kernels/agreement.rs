//! Whether kernels and MLX's operations compute the same.

use super::case::Case;
use mlx_train::{
    Array, Result, ffi,
    kernels::without_kernels,
    mlx_rs::{Dtype, ops::select},
};
use serde_json::{Value, json};

/// How a function is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub with_kernels: bool,
    pub compiled: bool,
    pub checkpointed: bool,
}

impl Form {
    const EAGER: Self = Self { with_kernels: true, compiled: false, checkpointed: false };
    const COMPILED: Self = Self { compiled: true, ..Self::EAGER };

    /// Those that are measured, eager ones first.
    pub const MEASURED: [Self; 4] = [
        Self::EAGER,
        Self { with_kernels: false, ..Self::EAGER },
        Self::COMPILED,
        Self { with_kernels: false, ..Self::COMPILED },
    ];

    /// Those that have to agree in every case.
    pub const COMPARED: [Self; 2] = [Self::EAGER, Self { checkpointed: true, ..Self::EAGER }];

    /// Those and compiled ones.
    pub const ALL: [Self; 4] = [
        Self::COMPARED[0],
        Self::COMPARED[1],
        Self::COMPILED,
        Self { checkpointed: true, ..Self::COMPILED },
    ];
}

/// What comparisons have found.
#[derive(Debug, Default)]
pub struct Agreement {
    num_cases: u32,
    /// Of all numbers, in terms of the largest of its array.
    largest_error: f32,
    /// The same of MLX's operations.
    largest_error_of_mlx: f32,
    disagreeing: Vec<String>,
    failed: Vec<String>,
}

impl Agreement {
    /// Compares one case, in each form.
    pub fn add(&mut self, case: &Case, forms: &[Form]) {
        for &form in forms {
            self.num_cases += 1;
            let of = || format!("{:?} of {:?}, {form:?}", case.inputs[0].dtype(), case.shapes());
            match errors(case, form) {
                Ok([ours, own]) => {
                    self.largest_error = self.largest_error.max(ours);
                    self.largest_error_of_mlx = self.largest_error_of_mlx.max(own);
                    let tolerance = case.tolerance(own);
                    if ours.is_nan() || ours > tolerance {
                        self.disagreeing.push(format!("{}: {ours} off, not {tolerance}", of()));
                    }
                }
                Err(error) => self.failed.push(format!("{}: {error}", of())),
            }
        }
    }

    /// Adds what was found of others.
    pub fn extend(&mut self, other: Self) {
        let Self { num_cases, largest_error, largest_error_of_mlx, disagreeing, failed } = other;
        self.num_cases += num_cases;
        self.largest_error = self.largest_error.max(largest_error);
        self.largest_error_of_mlx = self.largest_error_of_mlx.max(largest_error_of_mlx);
        self.disagreeing.extend(disagreeing);
        self.failed.extend(failed);
    }

    pub fn agrees(&self) -> bool {
        self.problems().next().is_none()
    }

    pub fn largest_error(&self) -> f32 {
        self.largest_error
    }

    /// Whether a case could not be computed.
    pub fn failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Cases that are wrong, and why.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.disagreeing.iter().chain(&self.failed)
    }

    /// What a line says of it.
    pub fn told(&self) -> Value {
        json!({
            "agrees": self.agrees(),
            "num_compared": self.num_cases,
            "largest_error": self.largest_error,
            "largest_error_of_mlx": self.largest_error_of_mlx,
            "first_problem": self.problems().next(),
        })
    }
}

/// How far a form and MLX's operations are from MLX's operations in f32, each the most of all outputs and in terms of
/// the largest number of the output.
fn errors(case: &Case, form: Form) -> Result<[f32; 2]> {
    let exact = without_kernels(|| case.in_f32()?.outputs(Form::MEASURED[1]))?;
    let own = without_kernels(|| case.outputs(Form::MEASURED[1]))?;
    let ours = case.outputs(form)?;
    let mut errors = [0.0_f32; 2];
    for ((exact, own), ours) in exact.iter().zip(&own).zip(&ours) {
        for (error, array) in errors.iter_mut().zip([ours, own]) {
            // `max` alone would forget what is not a number.
            let distance = distance(array, exact)?;
            *error = if distance.is_nan() { f32::INFINITY } else { error.max(distance) };
        }
    }
    Ok(errors)
}

/// The largest difference, in terms of the largest number of `exact`. A loss that is no number has to be none in both;
/// another NaN stays one.
fn distance(array: &Array, exact: &Array) -> Result<f32> {
    let [array, exact] = [array.as_dtype(Dtype::Float32)?, exact.as_dtype(Dtype::Float32)?];
    let both_nan = array.is_nan()?.logical_and(exact.is_nan()?)?;
    let largest = |x: &Array| -> Result<f32> {
        let zeroed = select(&both_nan, Array::from_f32(0.0), x.abs()?)?;
        ffi::eval(std::slice::from_ref(&zeroed))?;
        Ok(zeroed.max(None)?.try_item_exact::<f32>()?)
    };
    Ok(largest(&array.subtract(&exact)?)? / largest(&exact)?.max(1e-6))
}
