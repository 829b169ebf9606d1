//! The policy of all that runs on a thread for a while.

use super::{CheckpointPolicy, PolicyError};
use crate::{Array, Result, ffi::Nodes};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    mem::replace,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

thread_local! {
    static SCOPE: RefCell<Scope> = const { RefCell::new(Scope::new(CheckpointPolicy::None)) };
    static CONSTANTS: RefCell<Option<Nodes>> = const { RefCell::new(None) };
}

/// A policy, and what it has met.
struct Scope {
    policy: CheckpointPolicy,
    /// Whether what runs is inside of something that is checkpointed.
    is_inside: bool,
    /// How many blocks the deepest stack has.
    num_blocks: Option<usize>,
    parts: BTreeSet<&'static str>,
}

impl Scope {
    const fn new(policy: CheckpointPolicy) -> Self {
        Self { policy, is_inside: false, num_blocks: None, parts: BTreeSet::new() }
    }

    /// What a scope inside of this one has met.
    fn meet(&mut self, inner: Self) {
        self.num_blocks = self.num_blocks.max(inner.num_blocks);
        self.parts.extend(inner.parts);
    }

    /// Refuses a policy that has met nothing of what it names.
    fn check(&self) -> Result<(), PolicyError> {
        let policy = || self.policy.to_string();
        match &self.policy {
            CheckpointPolicy::None | CheckpointPolicy::Auto(_) => Ok(()),
            CheckpointPolicy::Selective(names) => {
                let unknown = names.iter().find(|name| !self.parts.contains(name.as_str()));
                unknown.map_or(Ok(()), |name| {
                    let (policy, name) = (policy(), name.clone());
                    Err(PolicyError::UnknownPart { policy, name, known: known(&self.parts) })
                })
            }
            CheckpointPolicy::Layers(indices) => {
                let num_blocks = self.num_blocks.ok_or_else(|| no_stack(policy()))?;
                let behind = indices.iter().copied().find(|&index| index >= num_blocks);
                behind.map_or(Ok(()), |index| {
                    Err(PolicyError::NoSuchBlock { policy: policy(), index, num_blocks })
                })
            }
            CheckpointPolicy::Full | CheckpointPolicy::Every(_) => {
                self.num_blocks.map(|_| ()).ok_or_else(|| no_stack(policy()))
            }
        }
    }
}

fn no_stack(policy: String) -> PolicyError {
    PolicyError::NoStack { policy }
}

/// The parts that ran, for a message.
fn known(parts: &BTreeSet<&str>) -> String {
    if parts.is_empty() {
        return "the model marks no parts with `checkpoint::part`".into();
    }
    let parts: Vec<String> = parts.iter().map(|part| format!("`{part}`")).collect();
    format!("its parts are {}", parts.join(", "))
}

/// Runs `f` with `policy` as that of every [`Stack`](crate::nn::Stack) and [`part`](super::part) inside.
///
/// A scope inside of another one stands in its place. Whatever the policy, the same numbers are computed: what
/// a block draws comes from a key of its own, whether it is checkpointed or not.
///
/// # Errors
/// What `f` returns; [`PolicyError`] when the policy names blocks or parts that did not run, or is
/// [`CheckpointPolicy::Auto`].
pub fn with_policy<T>(policy: &CheckpointPolicy, f: impl FnOnce() -> Result<T>) -> Result<T> {
    if let CheckpointPolicy::Auto(_) = policy {
        return Err(PolicyError::Unresolved { policy: policy.to_string() }.into());
    }
    let (value, scope) = within(policy.clone(), f)?;
    scope.check()?;
    SCOPE.with_borrow_mut(|outer| outer.meet(scope));
    Ok(value)
}

/// As [`with_policy`], in a loss whose gradient is not taken for `constants`, which are alive meanwhile: no
/// checkpoint computes their gradients, whether modules know that they are frozen or not.
pub(crate) fn with_policy_and_constants<T>(
    policy: &CheckpointPolicy,
    constants: &[Array],
    f: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if *policy == CheckpointPolicy::None {
        return with_policy(policy, f);
    }
    let outer = CONSTANTS.replace(Some(Nodes::of(constants)?));
    let result = catch_unwind(AssertUnwindSafe(|| with_policy(policy, f)));
    CONSTANTS.set(outer);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Whether no gradient is taken for an array.
pub(super) fn is_constant(array: &Array) -> Result<bool> {
    CONSTANTS.with_borrow(|nodes| nodes.as_ref().map_or(Ok(false), |nodes| nodes.contains(array)))
}

/// The names of the parts that run in `f`.
pub(crate) fn parts_in<T>(f: impl FnOnce() -> Result<T>) -> Result<BTreeSet<&'static str>> {
    // Parts are noted where some may be named.
    Ok(within(CheckpointPolicy::Selective(Vec::new()), f)?.1.parts)
}

/// Runs `f` in a scope of its own, and returns that with what `f` returns.
fn within<T>(policy: CheckpointPolicy, f: impl FnOnce() -> Result<T>) -> Result<(T, Scope)> {
    let outer = SCOPE.replace(Scope::new(policy));
    let result = catch_unwind(AssertUnwindSafe(f));
    let scope = SCOPE.replace(outer);
    Ok((result.unwrap_or_else(|panic| resume_unwind(panic))?, scope))
}

/// Runs `f` as the inside of something that is checkpointed, now or when it runs again.
pub(super) fn inside<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let was_inside = SCOPE.with_borrow_mut(|scope| replace(&mut scope.is_inside, true));
    let result = catch_unwind(AssertUnwindSafe(f));
    SCOPE.with_borrow_mut(|scope| scope.is_inside = was_inside);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Whether what runs is inside of something that is checkpointed.
pub(crate) fn is_inside() -> bool {
    SCOPE.with_borrow(|scope| scope.is_inside)
}

/// Whether each block of a stack of `num_blocks` is to be checkpointed.
pub(crate) fn checkpointed_blocks(num_blocks: usize) -> Vec<bool> {
    SCOPE.with_borrow_mut(|scope| {
        scope.num_blocks = scope.num_blocks.max(Some(num_blocks));
        let is_checkpointed = |index| !scope.is_inside && scope.policy.takes_block(index);
        (0..num_blocks).map(is_checkpointed).collect()
    })
}

/// Whether a part is to be checkpointed.
pub(super) fn is_part_checkpointed(name: &'static str) -> bool {
    SCOPE.with_borrow_mut(|scope| {
        let CheckpointPolicy::Selective(names) = &scope.policy else { return false };
        let is_named = names.iter().any(|named| named == name);
        scope.parts.insert(name);
        is_named && !scope.is_inside
    })
}
