use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
#[shard(columns)]
struct Model {
    #[param]
    #[shard(rows)]
    layer: Linear,
}

fn main() {}
