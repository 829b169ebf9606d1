use mlx_train::prelude::*;

#[derive(Clone, Copy, ModelConfig)]
union Sizes {
    width: u32,
    height: i32,
}

fn main() {}
