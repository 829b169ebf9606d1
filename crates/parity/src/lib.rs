//! Parity with Python MLX: a script computes, a Rust test compares.
//!
//! A script takes the path of the safetensors file that it must write as its first argument, then
//! whatever the test passes, and seeds its own randomness. The interpreter is the one that
//! `cargo xtask setup` made, with the `mlx` package of the version that this workspace pins.
//!
//! [`mpi`] has what tests start ranks over MPI with, since the same set-up installs it.
//!
//! Only tests depend on this crate, so its functions panic where a test has to fail.

#![allow(clippy::panic)]

pub mod mpi;

use mlx_rs::{Array, Dtype};
use std::{collections::HashMap, env, hash::BuildHasher, path::Path, process::Command};

/// The environment variable that names the Python interpreter with MLX.
pub const PYTHON: &str = "MLX_TRAIN_PYTHON";

/// Runs a script and loads the arrays that it wrote, by name.
///
/// `script` is relative to the package under test, as Cargo runs tests in its folder.
///
/// # Panics
/// When the interpreter is not set up, or the script fails or writes no readable file.
#[track_caller]
pub fn run(script: impl AsRef<Path>, args: &[&str]) -> HashMap<String, Array> {
    let script = script.as_ref();
    let Some(python) = env::var_os(PYTHON).filter(|python| !python.is_empty()) else {
        panic!("parity tests need Python with MLX, and {PYTHON} is unset: run `cargo xtask setup`");
    };
    let folder = tempfile::tempdir()
        .unwrap_or_else(|error| panic!("no temporary folder for {}: {error}", script.display()));
    let arrays = folder.path().join("arrays.safetensors");
    let output = Command::new(&python)
        // Scripts share modules, and what Python makes of those stays out of the repository.
        .arg("-B")
        .arg(script)
        .arg(&arrays)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", python.display()));
    assert!(
        output.status.success(),
        "{} failed with {}:\n{}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    let loaded = Array::load_safetensors(&arrays)
        .unwrap_or_else(|error| panic!("{} wrote no arrays: {error}", script.display()));
    // MLX reads a file when an array is first used; the folder is gone by then.
    mlx_rs::transforms::eval(loaded.values())
        .unwrap_or_else(|error| panic!("{} wrote a broken file: {error}", script.display()));
    loaded
}

/// Takes one array out of those that [`run`] loaded.
///
/// # Panics
/// When there is no array of that name; the message lists those there are.
#[track_caller]
pub fn take(arrays: &mut HashMap<String, Array, impl BuildHasher>, name: &str) -> Array {
    arrays.remove(name).unwrap_or_else(|| {
        let mut names: Vec<_> = arrays.keys().cloned().collect();
        names.sort_unstable();
        panic!("the script wrote no `{name}` (left: {})", names.join(", "))
    })
}

/// Asserts equal shape, then equal dtype, then `|actual - expected| <= atol + rtol * |expected|`.
///
/// Two NaNs are equal, and so are two infinities of one sign. Integers are compared exactly, whatever the tolerances.
///
/// # Panics
/// When they differ; the message names the array and its worst element.
#[track_caller]
pub fn assert_close(name: &str, actual: &Array, expected: &Array, rtol: f64, atol: f64) {
    if let Err(difference) = compare(actual, expected, rtol, atol) {
        panic!("`{name}` differs: {difference}");
    }
}

/// Says how two arrays differ, if they do; see [`assert_close`].
///
/// # Errors
/// The difference in words: shapes, dtypes, or the worst element and how many are too far.
pub fn compare(actual: &Array, expected: &Array, rtol: f64, atol: f64) -> Result<(), String> {
    if actual.shape() != expected.shape() {
        let (actual, expected) = (actual.shape(), expected.shape());
        return Err(format!("shape {actual:?}, expected {expected:?}"));
    }
    if actual.dtype() != expected.dtype() {
        let (actual, expected) = (actual.dtype(), expected.dtype());
        return Err(format!("dtype {actual:?}, expected {expected:?}"));
    }
    let exact = !is_float(expected.dtype());
    let (rtol, atol) = if exact { (0.0, 0.0) } else { (rtol, atol) };
    let (actual_values, expected_values) = (values(actual)?, values(expected)?);

    let mut num_far = 0_usize;
    let mut worst = (0.0, 0);
    for (index, (&a, &e)) in actual_values.iter().zip(&expected_values).enumerate() {
        // The same bits first: infinities of one sign have no difference to measure.
        if a.to_bits() == e.to_bits() || (a.is_nan() && e.is_nan()) {
            continue;
        }
        // A NaN or an infinity against a number is as far as can be.
        let excess = match (a - e).abs() / (atol + rtol * e.abs()) {
            excess if excess.is_finite() => excess,
            _ => f64::INFINITY,
        };
        if excess > 1.0 {
            num_far += 1;
        }
        if excess > worst.0 {
            worst = (excess, index);
        }
    }
    if num_far == 0 {
        return Ok(());
    }
    let (excess, index) = worst;
    let (a, e) = (actual_values[index], expected_values[index]);
    Err(format!(
        "{num_far} of {} elements are too far; the worst, at {:?}, is {a:e}, expected {e:e}, off by {:e}, \
         {excess:.1} times the tolerance (rtol {rtol:e}, atol {atol:e})",
        actual_values.len(),
        position(index, expected.shape()),
        (a - e).abs(),
    ))
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 | Dtype::Float64)
}

/// All values, row by row. A GPU has no f64, so the widening happens here.
fn values(array: &Array) -> Result<Vec<f64>, String> {
    // mlx-rs refuses to borrow an array without elements.
    if array.size() == 0 {
        return Ok(Vec::new());
    }
    let array = array.contiguous().map_err(|error| error.to_string())?;
    let read = match array.dtype() {
        Dtype::Float64 => array.to_vec_exact::<f64>(),
        dtype if is_float(dtype) => {
            array.to_vec_cast::<f32>().map(|v| v.into_iter().map(f64::from).collect())
        }
        _ => array.to_vec_cast::<i64>().map(|v| v.into_iter().map(|value| value as f64).collect()),
    };
    read.map_err(|error| error.to_string())
}

/// The multi-dimensional index of the element at `flat` in row-major order.
fn position(mut flat: usize, shape: &[i32]) -> Vec<usize> {
    let mut position = vec![0; shape.len()];
    for (axis, &size) in shape.iter().enumerate().rev() {
        position[axis] = flat % size as usize;
        flat /= size as usize;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: &[f32]) -> Array {
        Array::from_slice(values, &[values.len() as i32])
    }

    #[test]
    fn the_worst_element_is_named_by_its_position() {
        let expected = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]);
        let actual = Array::from_slice(&[1.0_f32, 2.1, 3.5, 4.0], &[2, 2]);
        let difference = compare(&actual, &expected, 0.0, 0.01).expect_err("they differ");
        assert!(difference.contains("2 of 4"), "{difference}");
        assert!(difference.contains("[1, 0]"), "{difference}");
    }

    #[test]
    fn shape_then_dtype_then_values_are_compared() {
        let one = array(&[1.0]);
        let difference = compare(&array(&[1.0, 1.0]), &one, 0.0, 0.0).expect_err("shape");
        assert_eq!(difference, "shape [2], expected [1]");
        let half = one.as_dtype(Dtype::Float16).expect("cast");
        let difference = compare(&half, &one, 0.0, 0.0).expect_err("dtype");
        assert_eq!(difference, "dtype Float16, expected Float32");
        assert_eq!(compare(&one, &one, 0.0, 0.0), Ok(()));
    }

    #[test]
    fn nan_equals_nan_alone() {
        let nan = array(&[f32::NAN]);
        assert_eq!(compare(&nan, &nan, 0.0, 0.0), Ok(()));
        assert!(compare(&nan, &array(&[1.0]), 1.0, 1.0).is_err());
        assert!(compare(&array(&[1.0]), &nan, 1.0, 1.0).is_err());
        assert!(compare(&array(&[f32::INFINITY]), &array(&[1.0]), 1.0, 1.0).is_err());
    }

    #[test]
    fn integers_are_compared_exactly() {
        let (three, four) = (Array::from_int(3), Array::from_int(4));
        assert!(compare(&three, &four, 10.0, 10.0).is_err());
    }
}
