//! Shape assertions that hold, beside asking MLX for the shapes, which no check can do without.
//!
//! That they allocate nothing is a test: `tests/shape_allocations.rs` of the engine.

use crate::Group;
use criterion::{BenchmarkGroup, measurement::WallTime};
use mlx_train::{Array, Result, assert_shape, mlx_rs::ops::zeros};
use serde_json::json;
use std::{cell::LazyCell, hint::black_box};

pub const GROUP: Group =
    Group { name: "shape", dtype: "float32", shapes: || json!({ "x": X, "q": Q }), bench };

const X: [i32; 3] = [8, 512, 768];
const Q: [i32; 4] = [8, 12, 512, 64];

fn bench(group: &mut BenchmarkGroup<'_, WallTime>) {
    let arrays = LazyCell::new(|| [lazy(&X), lazy(&Q)]);
    group.bench_function("one array", |b| {
        let [x, _] = &*arrays;
        b.iter(|| one(black_box(x), black_box(768)).unwrap());
    });
    group.bench_function("bare one array", |b| {
        let [x, _] = &*arrays;
        b.iter(|| black_box(x).shape().len());
    });
    group.bench_function("two arrays", |b| {
        let [x, q] = &*arrays;
        b.iter(|| two(black_box(x), black_box(q)).unwrap());
    });
    group.bench_function("bare two arrays", |b| {
        let [x, q] = &*arrays;
        b.iter(|| black_box(x).shape().len() + black_box(q).shape().len());
    });
}

/// Never computed: an assertion that waited for the device would show.
fn lazy(shape: &[i32]) -> Array {
    zeros::<f32>(shape).unwrap().add(Array::from_f32(1.0)).unwrap()
}

fn one(x: &Array, hidden_size: i32) -> Result<i32> {
    assert_shape!(x, [batch, seq, { hidden_size }]);
    Ok(batch + seq)
}

fn two(x: &Array, q: &Array) -> Result<i32> {
    assert_shape!(x: [batch, seq, heads * head_dim], q: [batch, heads, seq, head_dim]);
    Ok(batch + seq + heads + head_dim)
}
