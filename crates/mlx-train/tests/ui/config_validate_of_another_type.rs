use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(validate = check)]
struct Sizes {
    tied: bool,
}

fn check(sizes: &Sizes) -> bool {
    sizes.tied
}

fn main() {}
