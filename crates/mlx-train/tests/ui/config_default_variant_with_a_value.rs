use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
enum Activation {
    #[config(default = true)]
    Relu,
}

fn main() {}
