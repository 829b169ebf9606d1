use mlx_train::prelude::*;

fn forward(x: &Array) -> Result<()> {
    assert_shape!(x, [.., batch, ..]);
    Ok(())
}

fn main() {}
