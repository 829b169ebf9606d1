//! Losses: cross-entropy, mean squared error.
