//! Models whose blocks ranks share out train as on one.

use super::{
    ranks::{run, run_over},
    transformer,
};
use mlx_rs::Dtype;
use mlx_train_core::{
    Array, Result,
    batch::{Batch, IGNORED_TARGET},
    checkpoint::CheckpointPolicy,
    distributed::{Backend, Group, Mesh, Parallelism, PipelineOptions, Placement},
    estimate::Rows,
    model::FromConfig,
    optim::{AdamW, Clip},
    rng,
    train::{StepOptions, TrainStep},
};
use mlx_train_models::{
    mlp::{Mlp, MlpConfig},
    transformer::{Transformer, TransformerConfig},
};
use parity::assert_close;
use std::{collections::BTreeMap, ops::Range};

/// A model of four blocks, which draws.
fn deep() -> TransformerConfig {
    TransformerConfig { num_layers: 4, dropout: 0.1, ..transformer() }
}

/// Tokens of so many rows, and those after them, some of which are masked.
fn tokens(index: i32) -> Batch {
    let num_rows = 1 + index % 3;
    let token = |at: i32| (at * 7 + at * at % 5 + index * 3) % 32;
    let x: Vec<i32> = (0..num_rows * 6).map(token).collect();
    let masked = |at: i32| if at % 5 == 2 { IGNORED_TARGET } else { token(at + 1) };
    let y: Vec<i32> = (0..num_rows * 6).map(masked).collect();
    let batch = |tokens: &[i32]| Array::from_slice(tokens, &[num_rows, 6]);
    // Two documents a row.
    let segments: Vec<i32> = (0..num_rows * 6).map(|at| i32::from(at % 6 > 2)).collect();
    Batch::new(batch(&x), batch(&y)).with_segments(batch(&segments))
}

/// Rows of numbers, and their classes.
fn rows(index: i32) -> Batch {
    let num_rows = 2 + index % 3;
    let x: Vec<f32> = (0..num_rows * 6).map(|at| ((at * 5 + index) as f32 * 0.7).sin()).collect();
    let y: Vec<i32> = (0..num_rows).map(|row| (row + index) % 3).collect();
    Batch::new(Array::from_slice(&x, &[num_rows, 6]), Array::from_slice(&y, &[num_rows]))
}

/// The arrays that are held, by name, and which parts they are.
type Held = BTreeMap<String, (Array, Placement)>;

/// Losses, weights and norms of two steps of four micro-batches, which pipelines share out, and what is held then.
fn train<M: FromConfig>(
    mesh: &Mesh,
    config: &M::Config,
    options: &StepOptions,
    batch: fn(i32) -> Batch,
) -> Result<(Vec<Array>, Held)> {
    let mut model = rng::scope(&rng::key(5)?, || M::from_config(config))?;
    let pipeline =
        PipelineOptions { rows: Some(Rows::of(&batch(0))), ..PipelineOptions::default() };
    let clip = Clip::default().global_norm(0.5)?;
    let options = StepOptions { clip, pipeline, ..options.clone() };
    let mut step = TrainStep::parallel(mesh, &mut model, AdamW::default(), 3, options)?;
    let mut reported = Vec::new();
    let own = |all: Range<i32>| {
        let (first, every) = (mesh.data().rank(), mesh.data().world_size());
        all.skip(first).step_by(every).map(move |at| Ok(batch(at)))
    };
    for index in 0..2 {
        let output = step.run(own(4 * index..4 * index + 4), 0.01)?;
        reported.extend([output.loss.value, output.loss.weight, output.grad_norm]);
    }
    let evaluation = step.evaluate(own(0..2), &mut [])?;
    reported.push(Array::from_f32(evaluation.loss as f32));
    let (arrays, placements) = (step.snapshot()?, step.placements()?);
    let arrays = arrays.weights.into_iter().chain(arrays.training);
    let placements = placements.weights.into_iter().chain(placements.training);
    let held = arrays.zip(placements).map(|((name, array), placement)| (name, (array, placement)));
    Ok((reported, held.collect()))
}

/// Asserts that the ranks of a mesh train as one process does.
fn assert_trains_the_same<M: FromConfig>(
    mesh: &Mesh,
    config: &M::Config,
    options: &StepOptions,
    batch: fn(i32) -> Batch,
) -> Result<()> {
    let (expected, whole) = train::<M>(&Mesh::alone(), config, options, batch)?;
    let (reported, held) = train::<M>(mesh, config, options, batch)?;
    for (reported, expected) in reported.iter().zip(&expected) {
        assert_close("a reported number", reported, expected, 1e-4, 1e-5);
    }
    assert!(held.len() < whole.len(), "every rank holds all of the model");
    for (name, (array, placement)) in &held {
        let expected = placement.slice(&whole[name].0)?;
        if array.dtype() == Dtype::Float32 {
            assert_close(name, array, &expected, 1e-4, 1e-4);
        }
    }
    Ok(())
}

fn pipeline(group: &Group) -> Result<Mesh> {
    Mesh::new(group, Parallelism::pipeline(group.world_size()))
}

#[test]
fn stages_of_a_transformer_train_as_the_whole_one() {
    let test = "pipeline::stages_of_a_transformer_train_as_the_whole_one";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let mesh = pipeline(group)?;
            let tied = TransformerConfig { tie_word_embeddings: true, ..deep() };
            let fused = TransformerConfig { fused_loss: Some(true), dropout: 0.2, ..tied.clone() };
            let plain = StepOptions::default();
            let checkpointed = StepOptions {
                gradient_checkpointing: CheckpointPolicy::Selective(vec!["mlp".into()]),
                ..plain.clone()
            };
            for (config, options) in [(tied, &plain), (fused, &checkpointed)] {
                assert_trains_the_same::<Transformer>(&mesh, &config, options, tokens)?;
            }
            group.barrier()
        });
    }
}

#[test]
fn stages_of_an_mlp_train_as_the_whole_one() {
    let test = "pipeline::stages_of_an_mlp_train_as_the_whole_one";
    for world_size in [2, 4] {
        run(test, world_size, |group| {
            let config = MlpConfig {
                input_size: 6,
                hidden_sizes: vec![8, 12, 8, 8],
                output_size: 3,
                dropout: 0.2,
                ..MlpConfig::default()
            };
            let options = StepOptions::default();
            assert_trains_the_same::<Mlp>(&pipeline(group)?, &config, &options, rows)?;
            group.barrier()
        });
    }
}

#[test]
fn stages_whose_layers_ranks_divide_train_as_the_whole_transformer() {
    let test = "pipeline::stages_whose_layers_ranks_divide_train_as_the_whole_transformer";
    run_over(Backend::Mpi, test, 4, |group| {
        let mesh = Mesh::new(group, "tp=2,pp=2".parse()?)?;
        let tied = TransformerConfig { tie_word_embeddings: true, ..deep() };
        let options = StepOptions::default();
        assert_trains_the_same::<Transformer>(&mesh, &tied, &options, tokens)?;
        assert_trains_the_same::<Transformer>(&mesh, &deep(), &options, tokens)?;
        group.barrier()
    });
}

#[test]
fn ranks_that_divide_rows_layers_and_blocks_train_as_one_process() {
    let test = "pipeline::ranks_that_divide_rows_layers_and_blocks_train_as_one_process";
    run_over(Backend::Mpi, test, 8, |group| {
        let mesh = Mesh::new(group, "dp=2,tp=2,pp=2".parse()?)?;
        let (data, tensor, pipeline) = (mesh.data(), mesh.tensor(), mesh.pipeline());
        assert_eq!([data, tensor, pipeline].map(Group::world_size), [2; 3]);
        let config = transformer();
        assert_trains_the_same::<Transformer>(&mesh, &config, &StepOptions::default(), tokens)?;
        group.barrier()
    });
}
