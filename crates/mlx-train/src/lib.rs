//! Define and train your own models on Apple MLX.

extern crate self as mlx_train;
