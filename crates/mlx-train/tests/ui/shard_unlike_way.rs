use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard(heads)]
    layer: Linear,
}

fn main() {}
