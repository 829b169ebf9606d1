use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
enum Activation {
    #[config(default)]
    Relu,
    #[config(default)]
    Silu,
}

fn main() {}
