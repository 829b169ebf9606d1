//! Explicit random keys: the caller of a model owns the randomness, the model draws from it.
//!
//! A [`scope`] holds a key while a closure runs. Inside of it, [`next_key`] and mlx-rs's own random
//! functions draw from that key and nothing else, so the same key gives the same draws, in eager
//! and traced code alike (the key may be an input of a traced function). Training happens inside
//! of a scope; without one, [`next_key`] is `None` and dropout is the identity.

use crate::Result;
use mlx_rs::{
    Array,
    random::{RandomState, with_random_state},
};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

thread_local! {
    static SCOPE: RefCell<Option<RandomState>> = const { RefCell::new(None) };
}

/// A key `(2,)` uint32 from a seed.
///
/// # Errors
/// When MLX fails.
pub fn key(seed: u64) -> Result<Array> {
    Ok(mlx_rs::random::key(seed)?)
}

/// Splits a key `(2,)` into two independent ones.
///
/// # Errors
/// When `key` is not a key, or MLX fails.
pub fn split(key: &Array) -> Result<(Array, Array)> {
    Ok(mlx_rs::random::split(key, 2)?)
}

/// Runs `f` with `key` `(2,)` uint32 as the source of all randomness; scopes nest.
///
/// # Errors
/// What `f` returns, or when `key` is not a key.
pub fn scope<T>(key: &Array, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let (ours, theirs) = split(key)?;
    let outer = SCOPE.replace(Some(RandomState::from_key(ours)));
    // mlx-rs and we put the outer state back only on return, so a panic waits until both have.
    let result =
        with_random_state(RandomState::from_key(theirs), || catch_unwind(AssertUnwindSafe(f)));
    SCOPE.set(outer);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The next key `(2,)` of the surrounding [`scope`], or `None` outside of one (evaluation).
///
/// # Errors
/// When MLX fails.
pub fn next_key() -> Result<Option<Array>> {
    SCOPE.with_borrow_mut(|state| Ok(state.as_mut().map(RandomState::next_key).transpose()?))
}

/// Whether a [`scope`] is open, that is, whether layers train.
pub fn in_scope() -> bool {
    SCOPE.with_borrow(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::random::uniform;

    fn draw() -> Result<Vec<f32>> {
        let key = next_key()?.ok_or_else(|| crate::Error::message("no scope"))?;
        let ours = uniform::<_, f32>(0.0, 1.0, &[3], &key)?;
        let theirs = uniform::<_, f32>(0.0, 1.0, &[3], None)?;
        Ok([ours.try_as_slice::<f32>()?, theirs.try_as_slice::<f32>()?].concat())
    }

    #[test]
    fn one_key_gives_the_same_draws_and_another_key_gives_others() -> Result<()> {
        let first = scope(&key(7)?, draw)?;
        assert_eq!(first, scope(&key(7)?, draw)?);
        assert_ne!(first, scope(&key(8)?, draw)?);
        Ok(())
    }

    #[test]
    fn the_outer_scope_is_back_after_an_inner_one_panics() -> Result<()> {
        let expected = scope(&key(7)?, draw)?;
        let drawn = scope(&key(7)?, || {
            let inner = catch_unwind(AssertUnwindSafe(|| {
                scope(&key(1)?, || -> Result<()> { panic!("in the model") })
            }));
            assert!(inner.is_err());
            draw()
        })?;
        assert_eq!(drawn, expected);
        assert!(!in_scope());
        Ok(())
    }
}
