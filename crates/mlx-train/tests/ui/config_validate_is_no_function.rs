use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(validate = "check", presets = [1])]
struct Sizes {
    tied: bool,
}

fn main() {}
