use mlx_train::prelude::*;

const NAME: &str = "x";

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = NAME)]
    width: i32,
    #[config(default = [0.9])]
    betas: [f32; 2],
}

fn main() {}
