//! Every form of axis, in a crate that depends on `mlx-train` alone, without a warning.
#![deny(warnings, clippy::all, clippy::pedantic)]

use mlx_train::prelude::*;
use mlx_train::{assert_dtype, assert_same_shape};

const WIDTH: usize = 4;

struct Layer {
    heads: i64,
}

impl Layer {
    fn head_dim(&self) -> u32 {
        4
    }

    fn forward(&self, x: &Array, mask: &Array) -> Result<i32> {
        assert_dtype!(x, Float32 | Bfloat16);
        assert_shape!(x: [batch, .., heads * { WIDTH }], mask: [batch, _,],);
        assert_shape!(x, [{ batch }, .., self.heads * self.head_dim()]);
        assert_shape!(mask, [2, ..]);
        for array in [x, mask] {
            // A block of its own may use a name again.
            assert_shape!(array, [batch, ..]);
            assert_same_shape!(array, array);
        }
        Ok(heads)
    }
}

fn main() -> Result<()> {
    let zeros = |shape: &[i32]| Ok::<_, Error>(mlx_train::mlx_rs::ops::zeros::<f32>(shape)?);
    let heads = Layer { heads: 3 }.forward(&zeros(&[2, 7, 12])?, &zeros(&[2, 5])?)?;
    assert_eq!(heads, 3);
    let boxed = |x: &Array| -> std::result::Result<(), Box<dyn std::error::Error>> {
        assert_shape!(x, [3]);
        Ok(())
    };
    assert!(boxed(&zeros(&[4])?).is_err());
    Ok(())
}
