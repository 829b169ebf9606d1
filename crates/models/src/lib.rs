//! Reference models of mlx-train: [`mlp`] for feature vectors, [`transformer`] for tokens.
//!
//! Each is registered under its module's name, checks its config, and computes what the same model
//! in Python MLX computes: `tests/parity` compares outputs, losses and every gradient.

pub mod mlp;
pub mod transformer;

/// Refuses the sizes of a weight with more elements than MLX can count, which is in 32 bits: beyond
/// that its kernels fail late, or write where they must not.
fn check_weight([(a, rows), (b, columns)]: [(&str, i32); 2]) -> Result<(), String> {
    let num_elements = i64::from(rows) * i64::from(columns);
    if num_elements <= i64::from(i32::MAX) {
        return Ok(());
    }
    Err(format!(
        "{a} = {rows} and {b} = {columns} ask for a weight of {num_elements} elements, and MLX \
         counts up to 2^31 - 1; lower one"
    ))
}
