use mlx_train::prelude::*;

#[derive(ModelConfig)]
struct Sizes {
    tied: bool,
}

fn main() {}
