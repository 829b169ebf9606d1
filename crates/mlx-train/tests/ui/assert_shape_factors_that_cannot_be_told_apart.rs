use mlx_train::prelude::*;

fn forward(x: &Array) -> Result<()> {
    assert_shape!(x, [batch, heads * head_dim]);
    Ok(())
}

fn main() {}
