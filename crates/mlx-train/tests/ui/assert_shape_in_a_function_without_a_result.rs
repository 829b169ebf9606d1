use mlx_train::prelude::*;

fn forward(x: &Array) -> i32 {
    assert_shape!(x, [batch]);
    batch
}

fn main() {}
