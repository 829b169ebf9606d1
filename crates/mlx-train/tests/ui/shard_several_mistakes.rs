use mlx_train::{ModuleParameters, Shard, nn::Linear};

#[derive(ModuleParameters, Shard)]
struct Model {
    #[shard(rows)]
    a: Linear,
    #[param]
    #[shard(colums)]
    b: Linear,
    #[param]
    #[shard(columns, rows)]
    c: Linear,
}

fn main() {}
