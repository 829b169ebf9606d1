//! Models whose stacks have fewer blocks than their configs say.
//!
//! Blocks that are alike cost alike, so a few of them tell what hundreds cost: a plan records models that are built
//! in here.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

thread_local! {
    static STACKS: RefCell<Option<Stacks>> = const { RefCell::new(None) };
}

/// The stacks that were built so far.
struct Stacks {
    at_most: usize,
    num_blocks: Vec<usize>,
}

/// Runs `build`, in which a new [`Stack`](super::Stack) keeps `at_most` of its blocks, and says how many blocks each
/// was given.
pub(crate) fn shortened<T>(at_most: usize, build: impl FnOnce() -> T) -> (T, Vec<usize>) {
    let outer = STACKS.replace(Some(Stacks { at_most, num_blocks: Vec::new() }));
    let result = catch_unwind(AssertUnwindSafe(build));
    let stacks = STACKS.replace(outer);
    let value = result.unwrap_or_else(|panic| resume_unwind(panic));
    (value, stacks.map(|stacks| stacks.num_blocks).unwrap_or_default())
}

/// The blocks that a new stack keeps.
pub(super) fn keep<B>(mut blocks: Vec<B>) -> Vec<B> {
    STACKS.with_borrow_mut(|stacks| {
        if let Some(stacks) = stacks {
            stacks.num_blocks.push(blocks.len());
            blocks.truncate(stacks.at_most);
        }
    });
    blocks
}

#[cfg(test)]
mod tests {
    use super::{super::Stack, *};

    #[test]
    fn stacks_are_short_inside_and_whole_outside() {
        let build = || (Stack::new(vec![0; 5]).len(), Stack::new(vec![0; 2]).len());
        assert_eq!(shortened(3, build), ((3, 2), vec![5, 2]));
        assert_eq!(build(), (5, 2));
    }
}
