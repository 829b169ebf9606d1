//! How many rows are held out of training.

use super::DataError;
use crate::Result;

/// How many of `len` are for training when `fraction` of them is held out; both parts are non-empty.
pub(super) fn num_training(len: usize, fraction: f64, what: &str) -> Result<usize> {
    let held_out = (len as f64 * fraction).round() as usize;
    if fraction > 0.0 && fraction < 1.0 && held_out > 0 && held_out < len {
        return Ok(len - held_out);
    }
    Err(DataError::Invalid(format!(
        "holding out a fraction of {fraction} of the {len} {what} leaves one part empty: use a fraction \
         above 0 and below 1, and enough data"
    ))
    .into())
}
