use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes<T: Clone> {
    width: Vec<T>,
}

fn main() {}
