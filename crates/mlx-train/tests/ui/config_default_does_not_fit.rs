use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 300)]
    width: u8,
}

fn main() {}
