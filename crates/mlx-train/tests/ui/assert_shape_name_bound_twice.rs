use mlx_train::prelude::*;

fn forward(x: &Array, y: &Array) -> Result<()> {
    assert_shape!(x, [batch, seq]);
    assert_shape!(y, [batch, _]);
    Ok(())
}

fn main() {}
