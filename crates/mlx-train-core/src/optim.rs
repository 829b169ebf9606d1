//! Optimizers, schedules and clipping.
