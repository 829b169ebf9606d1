//! Functions that MLX traces once and then replays.

use super::{closure::Closure, grad::once_at_a_time};
use crate::{Array, Error, Result};

/// A function that MLX traces at its first call and replays after that; see [`compile`].
///
/// It stays on the thread that made it, as MLX's cache of traces does, and dropping it frees its
/// traces.
pub struct Compiled<'f> {
    closure: Closure<'f>,
}

/// Makes MLX trace `f` once and replay the simplified and fused graph at later calls.
///
/// `f` runs again for inputs of another number, shape or dtype: once for each combination. With
/// `shapeless`, other sizes need no new trace, but `f` may then not depend on them. While a gradient is taken
/// through the call, `f` runs each time, as a part of the surrounding graph.
///
/// Everything else that `f` uses is frozen at its first run: captured arrays, draws from a
/// [`rng::scope`](crate::rng::scope), counters. Pass what changes as an input and return it.
///
/// ```
/// use mlx_train_core::{Array, ffi};
/// let mut runs = 0;
/// let mut double = ffi::compile(|x| { runs += 1; Ok(vec![x[0].add(&x[0])?]) }, false)?;
/// for x in [1.0, 2.0] {
///     let y = double.call(&[Array::from_f32(x)])?;
///     assert_eq!(y[0].try_item_cast::<f32>().ok(), Some(2.0 * x));
/// }
/// drop(double);
/// assert_eq!(runs, 1);
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
///
/// # Errors
/// When MLX fails.
pub fn compile<'f, F>(f: F, shapeless: bool) -> Result<Compiled<'f>>
where
    F: FnMut(&[Array]) -> Result<Vec<Array>> + 'f,
{
    let closure = Closure::new(once_at_a_time(f))?;
    // MLX takes the address of its own copy of the closure as the key of its cache, so it cannot
    // meet those of mlx-rs, which are small numbers, and erases the key with the last copy.
    // SAFETY: both handles are alive during the call, and only the result keeps the closure.
    let closure = Closure::transformed(|result| unsafe {
        mlx_sys::mlx_compile(result, closure.raw(), shapeless)
    })?;
    Ok(Compiled { closure })
}

impl Compiled<'_> {
    /// The outputs for `inputs`: traced if they are the first of their kind, replayed otherwise.
    ///
    /// # Errors
    /// What the function returns when it is traced, or when MLX fails. After an error the next call
    /// traces anew.
    pub fn call(&mut self, inputs: &[Array]) -> Result<Vec<Array>> {
        self.closure.apply(inputs).map_err(explain)
    }
}

/// MLX merges equal constants and then misses one that is an output: what it says is how its map
/// type (libstdc++'s or libc++'s) names a missing key.
fn explain(error: Error) -> Error {
    match error {
        Error::Mlx(exception)
            if ["_Map_base::at", "unordered_map::at"]
                .iter()
                .any(|at| exception.what().contains(at)) =>
        {
            Error::message(
                "a compiled function returned a constant that it also uses elsewhere, which MLX cannot \
                 trace; return only what is computed from the inputs",
            )
        }
        error => error,
    }
}

impl std::fmt::Debug for Compiled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}
