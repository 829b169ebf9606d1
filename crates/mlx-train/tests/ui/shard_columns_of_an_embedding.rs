use mlx_train::{ModuleParameters, Shard, nn::Embedding};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard(columns)]
    tokens: Vec<Embedding>,
}

fn main() {}
