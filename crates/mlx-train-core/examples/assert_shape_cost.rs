//! What a shape assertion that holds costs, in nanoseconds.
//!
//! `cargo run --release -p mlx-train-core --example assert_shape_cost` prints the best of some rounds
//! beside what asking MLX for the shapes costs, which no check can do without. That nothing is
//! allocated is a test: `tests/shape_allocations.rs`.

#![allow(clippy::print_stdout)] // Its output is what it is for.

use mlx_train_core::{Array, Result, assert_shape};
use std::{hint::black_box, time::Instant};

const ROUNDS: usize = 20;
const CALLS: u32 = 100_000;

fn main() -> Result<()> {
    // Never computed: an assertion that waited for the device would show here.
    let x = Array::zeros::<f32>(&[8, 512, 768])?.add(Array::from_f32(1.0))?;
    let q = Array::zeros::<f32>(&[8, 12, 512, 64])?.add(Array::from_f32(1.0))?;

    report("x.shape()", || Ok(black_box(&x).shape().len()))?;
    report("assert_shape!(x, [batch, seq, {hidden_size}])", || one(black_box(&x), 768))?;
    report("x.shape(), q.shape()", || {
        Ok(black_box(&x).shape().len() + black_box(&q).shape().len())
    })?;
    report(
        "assert_shape!(x: [batch, seq, heads*head_dim], q: [batch, heads, seq, head_dim])",
        || two(black_box(&x), black_box(&q)),
    )
}

fn one(x: &Array, hidden_size: i32) -> Result<i32> {
    assert_shape!(x, [batch, seq, { hidden_size }]);
    Ok(batch + seq)
}

fn two(x: &Array, q: &Array) -> Result<i32> {
    assert_shape!(x: [batch, seq, heads * head_dim], q: [batch, heads, seq, head_dim]);
    Ok(batch + seq + heads + head_dim)
}

/// Prints what one call of `f` takes: the fastest round, as interruptions only ever add.
fn report<T>(what: &str, f: impl Fn() -> Result<T>) -> Result<()> {
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            black_box(f()?);
        }
        fastest = fastest.min(began.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    println!("{fastest:6.1} ns  {what}");
    Ok(())
}
