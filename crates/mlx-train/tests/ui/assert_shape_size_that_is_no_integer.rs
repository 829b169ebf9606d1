use mlx_train::prelude::*;

fn forward(x: &Array, width: f32) -> Result<()> {
    assert_shape!(x, [batch, { width }]);
    Ok(())
}

fn main() {}
