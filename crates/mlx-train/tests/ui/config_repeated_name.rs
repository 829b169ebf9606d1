use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 1)]
    width: i32,
    #[config(default = 1, rename = "width")]
    height: i32,
}

fn main() {}
