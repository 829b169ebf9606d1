use mlx_train::prelude::*;

fn forward(x: &Array, y: &Array) -> Result<()> {
    assert_shape!(x, [batch], y, [batch]);
    Ok(())
}

fn main() {}
