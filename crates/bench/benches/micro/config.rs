//! The config of the reference transformer: from the text of a file to checked values, and back.

use crate::Group;
use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use mlx_train::{
    config::{Document, Format},
    registry::{ModelRegistry, ResolvedConfig},
};
use serde_json::json;
use std::{cell::LazyCell, hint::black_box};

pub const GROUP: Group = Group {
    name: "config",
    dtype: "none",
    shapes: || json!({ "num_fields": resolved().model().schema().fields.len() }),
    bench,
};

fn bench(group: &mut BenchmarkGroup<'_, WallTime>) {
    let resolved = LazyCell::new(resolved);
    let text = LazyCell::new(|| resolved.to_text(Format::Toml).unwrap());
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("from TOML", |b| {
        let (model, text) = (resolved.model(), &**text);
        b.iter(|| {
            let document = Document::parse(black_box(text), Format::Toml).unwrap();
            model.resolve_config(document).unwrap()
        });
    });
    group.bench_function("to TOML", |b| {
        let resolved = &*resolved;
        b.iter(|| black_box(resolved).to_text(Format::Toml).unwrap());
    });
}

fn resolved() -> ResolvedConfig {
    ModelRegistry::get_model("transformer").unwrap().resolve_config(()).unwrap()
}
