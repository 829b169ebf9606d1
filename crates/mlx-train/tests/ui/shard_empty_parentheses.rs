use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard()]
    layer: Linear,
}

fn main() {}
