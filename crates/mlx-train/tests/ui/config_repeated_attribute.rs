use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 1, default = 2)]
    width: i32,
    #[config(default = 1)]
    #[config(range = 1.., default = 1)]
    height: i32,
}

fn main() {}
