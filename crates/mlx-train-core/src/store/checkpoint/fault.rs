//! Where a test lets the disk fail, or the process die, between any two operations on files.

use std::io;

/// Stands before every operation that changes the disk.
#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps)]
pub(super) const fn point() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use tests::{Fault, inject, is_dead, point};

/// Whether a test pretends that the process is no more: then nothing is tidied up either.
#[cfg(not(test))]
pub(super) const fn is_dead() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::io;
    use std::cell::Cell;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in super::super) enum Fault {
        /// One operation fails, those after it do not.
        Full,
        /// Nothing happens any more.
        Killed,
    }

    thread_local! {
        static PLAN: Cell<Option<(usize, Fault)>> = const { Cell::new(None) };
    }

    /// Runs `f` with a fault at its operation number `at`; the result, and whether it came to that.
    pub(in super::super) fn inject<T>(at: usize, fault: Fault, f: impl FnOnce() -> T) -> (T, bool) {
        PLAN.set(Some((at, fault)));
        let result = f();
        let left = PLAN.take();
        (result, left.is_none_or(|(left, _)| left == 0))
    }

    pub(in super::super) fn point() -> io::Result<()> {
        match PLAN.get() {
            None => Ok(()),
            Some((0, Fault::Killed)) => Err(io::Error::other("killed")),
            Some((0, Fault::Full)) => {
                PLAN.set(None);
                Err(io::ErrorKind::StorageFull.into())
            }
            Some((left, fault)) => {
                PLAN.set(Some((left - 1, fault)));
                Ok(())
            }
        }
    }

    pub(in super::super) fn is_dead() -> bool {
        matches!(PLAN.get(), Some((0, Fault::Killed)))
    }
}
