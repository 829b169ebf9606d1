use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = "x", range = 1..)]
    name: String,
    #[config(range = 0..1)]
    tied: bool,
}

fn main() {}
