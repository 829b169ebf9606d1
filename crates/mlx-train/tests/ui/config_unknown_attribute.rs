use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(validat = check)]
struct Sizes {
    #[config(defualt = 1, rnage = 1..)]
    width: i32,
    #[config(default = 1, help = "x")]
    height: i32,
}

fn main() {}
