use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 1, range = 5)]
    number: i32,
    #[config(default = 1, range = ..)]
    unbounded: i32,
    #[config(default = 1, range = 5..1)]
    reversed: i32,
    #[config(default = 1, range = 5..5)]
    empty: i32,
}

fn main() {}
