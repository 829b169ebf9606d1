use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    activation: Activation,
}

#[derive(Debug, Clone, ModelConfig)]
enum Activation {
    Relu,
}

fn main() {}
