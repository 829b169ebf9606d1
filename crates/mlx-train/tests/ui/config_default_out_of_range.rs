use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = 0, range = 1..)]
    width: i32,
    #[config(default = 1.0, range = 0.0..1.0)]
    dropout: f32,
    #[config(default = [1, 0], range = 1..=5)]
    widths: Vec<i32>,
    #[config(default = Some(-1), range = 0..)]
    window: Option<i32>,
}

fn main() {}
