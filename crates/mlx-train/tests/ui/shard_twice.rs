use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard(columns)]
    #[shard(rows)]
    layer: Linear,
}

fn main() {}
