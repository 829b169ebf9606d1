use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(default = Relu)]
enum Activation {
    Relu,
}

fn main() {}
