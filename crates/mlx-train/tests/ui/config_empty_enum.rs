use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
enum Activation {}

fn main() {}
