use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 1, range = 0.5..)]
    width: i32,
    #[config(default = 1.0, range = "0"..)]
    dropout: f32,
}

fn main() {}
