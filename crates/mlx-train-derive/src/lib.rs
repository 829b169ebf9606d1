//! The macros of mlx-train.
