use mlx_train::{Shard, nn::Linear};

#[derive(Shard)]
enum Model {
    Wide(Linear),
    Narrow(Linear),
}

fn main() {}
