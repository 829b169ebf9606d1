//! Making MLX compute, or only noting what it would have to.

use crate::{Array, Error, Result};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// What [`without_evaluation`] has noted.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// What MLX was asked to compute, in order.
    pub evaluations: Vec<Evaluation>,
    /// What was told about arrays with [`mark`].
    pub marked: Vec<(&'static str, Array)>,
}

/// What one call asked MLX to compute.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The arrays that were asked for.
    pub arrays: Vec<Array>,
    /// Whether the call waits until they are there.
    pub waits: bool,
}

thread_local! {
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
}

/// Computes `arrays` and waits until they are there.
///
/// # Errors
/// When MLX fails, be it in an operation that was recorded long before.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let Some(arrays) = note(arrays, true) else { return Ok(()) };
    Ok(mlx_rs::transforms::eval(arrays)?)
}

/// Starts to compute `arrays` and returns at once; reading one waits for it.
///
/// # Errors
/// When MLX fails before the computation starts. A later failure appears where an array is read.
pub fn async_eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let Some(arrays) = note(arrays, false) else { return Ok(()) };
    Ok(mlx_rs::transforms::async_eval(arrays)?)
}

/// Runs `f`, in which [`eval`] and [`async_eval`] of this thread compute nothing, and says what they were
/// asked for: the graphs of all of it are there, and no memory is used.
///
/// Reading a value inside of `f` computes it all the same.
///
/// # Errors
/// What `f` returns; when it is called inside of itself.
pub fn without_evaluation<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Noted)> {
    if NOTED.with_borrow(Option::is_some) {
        return Err(Error::message("evaluations are noted already; note them once, outermost"));
    }
    NOTED.set(Some(Noted::default()));
    let result = catch_unwind(AssertUnwindSafe(f));
    let noted = NOTED.take().unwrap_or_default();
    result.unwrap_or_else(|panic| resume_unwind(panic)).map(|value| (value, noted))
}

/// Tells [`without_evaluation`] around it what these arrays are; does nothing outside of one.
pub fn mark(what: &'static str, arrays: &[Array]) {
    NOTED.with_borrow_mut(|noted| {
        if let Some(noted) = noted {
            noted.marked.extend(arrays.iter().map(|array| (what, array.clone())));
        }
    });
}

/// Notes that `arrays` were asked for, or gives them back to be computed.
fn note<'a, I: IntoIterator<Item = &'a Array>>(arrays: I, waits: bool) -> Option<I> {
    NOTED.with_borrow_mut(|noted| {
        let Some(noted) = noted else { return Some(arrays) };
        let arrays = arrays.into_iter().cloned().collect();
        noted.evaluations.push(Evaluation { arrays, waits });
        None
    })
}
