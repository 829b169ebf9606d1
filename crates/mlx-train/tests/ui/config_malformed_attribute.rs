use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = )]
    width: i32,
    #[config]
    height: i32,
}

fn main() {}
