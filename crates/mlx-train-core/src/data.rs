//! Datasets and batches.
