use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
enum Schedule {
    Constant,
    Cosine(f32),
}

fn main() {}
