use mlx_train::prelude::*;

use std::path::PathBuf;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    width: i32,
    dropout: f32,
    name: String,
    data: PathBuf,
    betas: [f32; 2],
}

fn main() {}
