use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(presets = presets)]
struct Sizes {
    tied: bool,
}

fn presets() -> Vec<Sizes> {
    Vec::new()
}

fn main() {}
