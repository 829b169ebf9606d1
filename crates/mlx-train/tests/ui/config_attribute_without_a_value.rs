use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(validate)]
struct Sizes {
    #[config(default)]
    width: i32,
}

fn main() {}
