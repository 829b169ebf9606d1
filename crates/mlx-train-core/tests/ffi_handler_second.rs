//! mlx-rs has installed its handler before our first call; in a binary of its own.
#![allow(clippy::expect_used)]

use mlx_rs::Array;
use mlx_train_core::{Error, ffi};

#[test]
fn messages_reach_both_when_mlx_rs_was_first() {
    let x = [Array::from_slice(&[1.0_f32, 0.0, 0.0, 1.0], &[2, 2])];
    let reshape = || x[0].reshape(&[3]).expect_err("four elements are not three");
    assert!(reshape().what().contains("[reshape] Cannot reshape"));
    let f = |x: &[Array]| Ok(vec![mlx_rs::linalg::qr(&x[0])?.0.sum(None)?]);
    let ours = ffi::value_and_grad(f, &x, &[0]).expect_err("MLX has no gradient of it");
    assert!(matches!(&ours, Error::Mlx(error) if error.what().contains("QRF")), "{ours}");
    assert!(reshape().what().contains("[reshape] Cannot reshape"));
}
