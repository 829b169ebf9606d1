//! Reference models of mlx-train.
