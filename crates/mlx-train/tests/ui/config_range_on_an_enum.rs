use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Sizes {
    #[config(range = Activation::Relu..)]
    activation: Activation,
}

#[derive(Debug, Clone, ModelConfig)]
enum Activation {
    #[config(default)]
    Relu,
}

fn main() {}
