use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 1, rename = "a.b")]
    width: i32,
    #[config(default = 1, rename = 2)]
    height: i32,
}

fn main() {}
