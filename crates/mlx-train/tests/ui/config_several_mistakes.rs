use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(chek = check)]
struct Sizes {
    #[config(default = "x", range = 1..)]
    width: i32,
    #[config(defaults = 1)]
    name: String,
    height: f64,
}

fn main() {}
