//! Models in any layout of ranks train as on one process, by `TrainStep`.

use super::{
    ranks::{run, run_over},
    trained::{assert_same, train},
    transformer,
};
use mlx_train_core::{
    Array, Result,
    batch::{Batch, IGNORED_TARGET},
    checkpoint::CheckpointPolicy,
    distributed::{Backend, Group, Mesh},
    model::FromConfig,
    nn::LoraConfig,
    optim::{AdamW, Clip},
    rng,
    train::{CompileMode, StepOptions},
};
use mlx_train_models::{
    mlp::{Mlp, MlpConfig},
    transformer::{Transformer, TransformerConfig},
};
use std::ops::Range;

/// Rows of a step of all ranks.
const ROWS: i32 = 8;

/// Sequences of 6 tokens, and the tokens after them, some of which are masked.
fn sequences(step: i32, rows: Range<i32>) -> Batch {
    let token = |at: i32| (at * 7 + at / 6 + step * 3) % 32;
    let places = rows.start * 6..rows.end * 6;
    let masked = |at: i32| if at % 5 == 2 { IGNORED_TARGET } else { token(at + 1) };
    let (x, y): (Vec<i32>, Vec<i32>) = places.map(|at| (token(at), masked(at))).unzip();
    let shape = [rows.len() as i32, 6];
    Batch::new(Array::from_slice(&x, &shape), Array::from_slice(&y, &shape))
}

/// Points, each with its class.
fn points(step: i32, rows: Range<i32>) -> Batch {
    let number = |row: i32, at: i32| ((row * 5 + at * 3 + step * 7) as f32 * 0.37).sin();
    let x: Vec<f32> = rows.clone().flat_map(|row| (0..4).map(move |at| number(row, at))).collect();
    let y: Vec<i32> = rows.clone().map(|row| (row + step) % 4).collect();
    let count = rows.len() as i32;
    Batch::new(Array::from_slice(&x, &[count, 4]), Array::from_slice(&y, &[count]))
}

/// Asserts that the ranks of `group` in `layout` train a model as one process does.
fn trains_as_one_process<M: FromConfig>(
    group: &Group,
    layout: &str,
    policy: &CheckpointPolicy,
    config: &M::Config,
    batch: impl Fn(i32, Range<i32>) -> Batch,
) -> Result<()> {
    let model = |seed: usize| rng::scope(&rng::key(seed as u64)?, || M::from_config(config));
    let options = StepOptions {
        clip: Clip::default().global_norm(0.5)?,
        compile: CompileMode::Off,
        gradient_checkpointing: policy.clone(),
        ..StepOptions::default()
    };
    let mesh = Mesh::new(group, layout.parse()?)?;
    let rows = ROWS / mesh.data().world_size() as i32;
    let first = rows * mesh.data().rank() as i32;
    // Another seed on each rank: all begin with the weights of rank 0.
    let ours = train(&mesh, model(group.rank())?, AdamW::default(), options.clone(), 2, |step| {
        vec![batch(step, first..first + rows)]
    })?;
    let one = train(&Mesh::alone(), model(0)?, AdamW::default(), options, 2, |step| {
        vec![batch(step, 0..ROWS)]
    })?;
    assert_same(&format!("{layout}, {policy}"), &ours, &one, 1e-5, 1e-4);
    Ok(())
}

fn mlp_trains_as_one_process(group: &Group, layout: &str) -> Result<()> {
    let hidden_sizes = vec![16, 16];
    let mlp = MlpConfig { input_size: 4, hidden_sizes, output_size: 4, ..Default::default() };
    trains_as_one_process::<Mlp>(group, layout, &CheckpointPolicy::None, &mlp, points)
}

/// Checkpointed, with a loss that makes no logits.
fn transformer_trains_as_one_process(group: &Group, layout: &str) -> Result<()> {
    let fused = TransformerConfig { fused_loss: Some(true), ..transformer() };
    trains_as_one_process::<Transformer>(group, layout, &CheckpointPolicy::Full, &fused, sequences)
}

#[test]
fn two_ranks_train_models_as_one_process() {
    run("layouts::two_ranks_train_models_as_one_process", 2, |group| {
        let tied = TransformerConfig { tie_word_embeddings: true, ..transformer() };
        let lora = LoraConfig { rank: 4, ..Default::default() };
        let lora = TransformerConfig { lora: Some(lora), ..transformer() };
        let selective = CheckpointPolicy::Selective(vec!["mlp".into()]);
        for layout in ["dp=2", "fsdp=2", "tp=2"] {
            mlp_trains_as_one_process(group, layout)?;
            transformer_trains_as_one_process(group, layout)?;
            let trains = trains_as_one_process::<Transformer>;
            trains(group, layout, &CheckpointPolicy::None, &tied, sequences)?;
            trains(group, layout, &selective, &lora, sequences)?;
        }
        group.barrier()
    });
}

#[test]
fn four_ranks_train_models_as_one_process() {
    run("layouts::four_ranks_train_models_as_one_process", 4, |group| {
        for layout in ["dp=4", "fsdp=4", "tp=4"] {
            mlp_trains_as_one_process(group, layout)?;
            transformer_trains_as_one_process(group, layout)?;
        }
        group.barrier()
    });
}

#[test]
fn ranks_that_divide_rows_and_layers_train_models_as_one_process() {
    let test = "layouts::ranks_that_divide_rows_and_layers_train_models_as_one_process";
    run_over(Backend::Mpi, test, 4, |group| {
        for layout in ["dp=2,tp=2", "fsdp=2,tp=2"] {
            mlp_trains_as_one_process(group, layout)?;
            transformer_trains_as_one_process(group, layout)?;
        }
        group.barrier()
    });
}
