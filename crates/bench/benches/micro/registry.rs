//! Look-up by name: in a program with few models, and in one with ten thousand.

use crate::Group;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, measurement::WallTime};
use mlx_train::{
    models::transformer::Transformer,
    registry::{
        ModelRegistry,
        private::{Index, ModelEntry, RegisteredBuild, Registration},
    },
};
use serde_json::json;
use std::{cell::LazyCell, hint::black_box};

pub const GROUP: Group = Group {
    name: "registry",
    dtype: "none",
    shapes: || json!({ "num_models": NUM_MODELS }),
    bench,
};

const NUM_MODELS: [usize; 2] = [10, 10_000];

/// What models are called that differ in a number: nearly all of them are close to a misspelled one.
const FAMILIES: [&str; 10] = [
    "transformer",
    "mlp",
    "convnet",
    "mixer",
    "recurrent",
    "diffusion",
    "encoder",
    "decoder",
    "vision_transformer",
    "state_space",
];

fn bench(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function("linked", |b| {
        b.iter(|| ModelRegistry::get_model(black_box("transformer")).unwrap());
    });
    for num_models in NUM_MODELS {
        let id = |what| BenchmarkId::new(what, num_models);
        let entries = LazyCell::new(|| entries(num_models));
        let index = LazyCell::new(|| Index::new(*entries));
        group.bench_function(id("known"), |b| {
            let (index, name) = (&*index, entries[num_models / 2].name());
            b.iter(|| index.get(black_box(name)).unwrap());
        });
        group.bench_function(id("unknown"), |b| {
            let index = &*index;
            b.iter(|| index.get(black_box("transfomer_7")).unwrap_err());
        });
        group.bench_function(id("list"), |b| {
            let index = &*index;
            b.iter(|| index.list(black_box("mlp_*")).unwrap());
        });
        // As in a process that has just begun.
        group.bench_function(id("first look-up"), |b| {
            let (entries, name) = (*entries, entries[num_models / 2].name());
            b.iter(|| Index::new(entries).get(black_box(name)).unwrap());
        });
        group.bench_function(id("first list"), |b| {
            let entries = *entries;
            b.iter_batched(
                || Index::new(entries),
                |index| index.list(black_box("*")).unwrap(),
                BatchSize::LargeInput,
            );
        });
    }
}

/// As the linker would gather them, in no order of their names.
fn entries(count: usize) -> &'static [ModelEntry] {
    let entry = |at: usize| {
        let number = at.wrapping_mul(7_919) % count;
        let family = FAMILIES[number % FAMILIES.len()];
        let registration = Registration {
            name: format!("{family}_{}", number / FAMILIES.len()).leak(),
            aliases: &[],
            tags: &[],
            description: "",
            type_path: "benches::Model",
            file: file!(),
            line: line!(),
        };
        ModelEntry::new(registration, <Transformer as RegisteredBuild>::METHODS)
    };
    (0..count).map(entry).collect::<Vec<_>>().leak()
}
