use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes(i32, i32);

fn main() {}
