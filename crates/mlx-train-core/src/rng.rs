//! Explicit random keys: the caller of a model owns the randomness, the model draws from it.
//!
//! A [`scope`] holds a key while a closure runs. Inside of it, [`next_key`] and mlx-rs's own random
//! functions draw from that key and nothing else, so the same key gives the same draws, in eager
//! and traced code alike (the key may be an input of a traced function). Training happens inside
//! of a scope; without one, [`next_key`] is `None` and dropout is the identity.

use crate::Result;
use mlx_rs::{
    Array,
    random::{RandomState, randint, with_random_state},
};
use std::{
    cell::{OnceCell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
};

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// What is drawn from.
struct Scope {
    source: Rc<Source>,
    /// What the source has become by the draws so far.
    state: Option<RandomState>,
    num_forks: u32,
}

/// A key, or where it comes from once something is drawn from it.
struct Source {
    key: OnceCell<Array>,
    parent: Option<(Rc<Source>, u32)>,
}

impl Scope {
    fn new(key: Array) -> Self {
        let source = Source { key: OnceCell::from(key), parent: None };
        Self { source: Rc::new(source), state: None, num_forks: 0 }
    }

    /// The number of the next fork.
    fn next_fork(&mut self) -> u32 {
        self.num_forks += 1;
        self.num_forks
    }

    fn next_key(&mut self) -> Result<Array> {
        if self.state.is_none() {
            self.state = Some(RandomState::from_key(self.source.key()?));
        }
        let state = self.state.as_mut().map(RandomState::next_key);
        Ok(state.ok_or_else(|| crate::Error::message("a random scope has no state"))??)
    }
}

impl Source {
    fn key(&self) -> Result<Array> {
        if let Some(key) = self.key.get() {
            return Ok(key.clone());
        }
        let Some((parent, number)) = &self.parent else {
            return Err(crate::Error::message("a random scope has no key"));
        };
        let key = fork_of(&parent.key()?, *number)?;
        Ok(self.key.get_or_init(|| key).clone())
    }
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
    within(Scope::new(ours), || with_theirs(theirs, f))
}

/// Runs `f` with draws of its own, which leave those around it as they are: with as many or as few of them,
/// what comes after `f` draws the same. Nothing is computed for it until `f` draws; outside of a [`scope`] it
/// is `f` alone.
///
/// mlx-rs's own random functions go on drawing from the surrounding scope.
///
/// # Errors
/// What `f` returns.
pub fn fork<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let fork = SCOPE.with_borrow_mut(|scope| {
        let scope = scope.as_mut()?;
        let parent = Some((Rc::clone(&scope.source), scope.next_fork()));
        let source = Rc::new(Source { key: OnceCell::new(), parent });
        Some(Scope { source, state: None, num_forks: 0 })
    });
    match fork {
        Some(fork) => within(fork, f),
        None => f(),
    }
}

/// The key `(2,)` of the fork that [`fork`] would open here, for [`forked`]; outside of a [`scope`], a draw of
/// mlx-rs's own.
pub(crate) fn fork_key() -> Result<Array> {
    let fork = SCOPE.with_borrow_mut(|scope| {
        scope.as_mut().map(|scope| (Rc::clone(&scope.source), scope.next_fork()))
    });
    match fork {
        Some((source, number)) => fork_of(&source.key()?, number),
        None => Ok(randint::<_, u32>(0, i32::MAX, &[2], None)?),
    }
}

/// Runs `f` with the draws of the fork of this key, whenever that is; where nothing trains, mlx-rs's own random
/// functions alone draw from it.
pub(crate) fn forked<T>(
    key: &Array,
    is_training: bool,
    f: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let theirs = fork_of(key, u32::MAX)?;
    if is_training {
        within(Scope::new(key.clone()), || with_theirs(theirs, f))
    } else {
        with_theirs(theirs, f)
    }
}

/// A key `(2,)` that follows from another and a number, and is independent of what is drawn from either.
pub(crate) fn fork_of(key: &Array, number: u32) -> Result<Array> {
    // Fractional digits of the golden ratio: any number that tells these keys from those that are drawn from.
    const FORK: u32 = 0x9E37_79B9;
    Ok(split(&key.add(Array::from_slice(&[FORK, number], &[2]))?)?.0)
}

fn within<T>(scope: Scope, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let outer = SCOPE.replace(Some(scope));
    let result = catch_unwind(AssertUnwindSafe(f));
    SCOPE.set(outer);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `f` with `key` as what mlx-rs's own random functions draw from.
fn with_theirs<T>(key: Array, f: impl FnOnce() -> Result<T>) -> Result<T> {
    // mlx-rs puts the outer state back only on return, so a panic waits until it has.
    let result =
        with_random_state(RandomState::from_key(key), || catch_unwind(AssertUnwindSafe(f)));
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The next key `(2,)` of the surrounding [`scope`], or `None` outside of one (evaluation).
///
/// # Errors
/// When MLX fails.
pub fn next_key() -> Result<Option<Array>> {
    SCOPE.with_borrow_mut(|scope| scope.as_mut().map(Scope::next_key).transpose())
}

/// Whether a [`scope`] is open, that is, whether layers train.
pub fn in_scope() -> bool {
    SCOPE.with_borrow(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::random::uniform;
    use std::collections::HashSet;

    fn draw() -> Result<Vec<f32>> {
        let ours = draw_ours()?;
        let theirs = uniform::<_, f32>(0.0, 1.0, &[3], None)?;
        Ok([&ours, theirs.try_as_slice::<f32>()?].concat())
    }

    #[test]
    fn one_key_gives_the_same_draws_and_another_key_gives_others() -> Result<()> {
        let first = scope(&key(7)?, draw)?;
        assert_eq!(first, scope(&key(7)?, draw)?);
        assert_ne!(first, scope(&key(8)?, draw)?);
        Ok(())
    }

    #[test]
    fn a_fork_leaves_the_draws_around_it_as_they_are_however_much_it_draws() -> Result<()> {
        let after = |num_draws: usize| {
            scope(&key(7)?, || {
                fork(|| (0..num_draws).try_for_each(|_| next_key().map(|_| ())))?;
                Ok(next_key()?
                    .map(|key| key.try_as_slice::<u32>().map(<[u32]>::to_vec))
                    .transpose()?)
            })
        };
        assert_eq!(after(0)?, after(3)?);
        assert!(fork(next_key)?.is_none(), "outside of a scope there is nothing to draw from");
        Ok(())
    }

    #[test]
    fn every_fork_draws_other_numbers_and_its_key_gives_the_same_ones_again() -> Result<()> {
        let numbers = |forks_before: usize| {
            scope(&key(7)?, || {
                (0..forks_before).try_for_each(|_| fork(|| Ok(())))?;
                Ok([draw_ours()?, fork(draw_ours)?, fork(|| fork(draw_ours))?])
            })
        };
        let drawn: Vec<_> = [numbers(0)?, numbers(1)?].concat();
        // What is drawn around the forks is the same in both; all else differs.
        let distinct: HashSet<_> = drawn.iter().map(|numbers| format!("{numbers:?}")).collect();
        assert_eq!(distinct.len(), 5, "{drawn:?}");

        let key_of_fork = scope(&key(7)?, fork_key)?;
        for _ in 0..2 {
            assert_eq!(forked(&key_of_fork, true, draw_ours)?, drawn[1]);
        }
        assert!(!forked(&key_of_fork, false, || Ok(in_scope()))?);
        Ok(())
    }

    fn draw_ours() -> Result<Vec<f32>> {
        let key = next_key()?.ok_or_else(|| crate::Error::message("no scope"))?;
        Ok(uniform::<_, f32>(0.0, 1.0, &[3], &key)?.try_as_slice::<f32>()?.to_vec())
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
