use mlx_train::prelude::*;

fn forward(x: &Array, seq: i32) -> Result<()> {
    assert_shape!(x, [batch, seq + 1]);
    Ok(())
}

fn main() {}
