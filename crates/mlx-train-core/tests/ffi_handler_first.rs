//! Our first call comes before any of mlx-rs's; in a binary of its own, as a process has one first.
#![allow(clippy::expect_used)]

use mlx_rs::Array;
use mlx_train_core::{Error, ffi};

#[test]
fn messages_reach_both_when_ours_is_installed_first() {
    let x = [Array::from_slice(&[1.0_f32, 0.0, 0.0, 1.0], &[2, 2])];
    let f = |x: &[Array]| Ok(vec![mlx_rs::linalg::qr(&x[0])?.0.sum(None)?]);
    let ours = ffi::value_and_grad(f, &x, &[0]).expect_err("MLX has no gradient of it");
    assert!(matches!(&ours, Error::Mlx(error) if error.what().contains("QRF")), "{ours}");
    let theirs = x[0].reshape(&[3]).expect_err("four elements are not three");
    assert!(theirs.what().contains("[reshape] Cannot reshape"), "{theirs}");
}
