use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters)]
struct Block {
    #[param]
    layer: Linear,
}

#[derive(ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard]
    blocks: Vec<Block>,
}

fn main() {}
