use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(default = "768")]
    text: i32,
    #[config(default = 1.0)]
    float: usize,
    #[config(default = -1)]
    negative: usize,
    #[config(default = 1)]
    number: bool,
    #[config(default = true)]
    boolean: String,
    #[config(default = [1.0])]
    list: f32,
    #[config(default = [1, "x"])]
    item: Vec<i32>,
    #[config(default = 0.5)]
    scalar: Vec<f32>,
    #[config(default = "x")]
    optional: Option<i32>,
}

fn main() {}
