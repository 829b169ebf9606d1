//! Memory and time.
