use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    layer: Linear,
}

fn main() {}
