//! Asking a run to stop from another thread, such as a handler of SIGINT.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A handle by which a run is asked to stop: it finishes its step, saves, and returns.
///
/// Clones are handles of the same run. Asking is a single atomic store, so a signal handler may do it.
///
/// ```
/// use mlx_train_core::train::StopSignal;
/// let signal = StopSignal::new();
/// let elsewhere = signal.clone();
/// std::thread::spawn(move || elsewhere.request()).join().unwrap();
/// assert!(signal.is_requested());
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// A signal that nobody has given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to stop after the step that it is in.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
