use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
#[config(presets = presets)]
struct Sizes {
    preset: bool,
}

#[derive(Debug, Clone, ModelConfig)]
enum Schedule {
    Cosine { kind: bool },
}

fn presets() -> Vec<Preset<Sizes>> {
    Vec::new()
}

fn main() {}
