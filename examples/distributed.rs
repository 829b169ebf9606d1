//! One training loop for one process, or for several that share its work in any way.
//!
//! ```text
//! cargo build --release -p mlx-train -p mlx-train-examples --bin mlx-train --bin distributed
//! target/release/distributed                                                       # one process
//! target/release/mlx-train launch -n 2 -- target/release/distributed dp=2          # rows of the batch
//! target/release/mlx-train launch -n 2 -- target/release/distributed fsdp=2        # and all state
//! target/release/mlx-train launch -n 2 -- target/release/distributed tp=2          # layers
//! target/release/mlx-train launch -n 2 -- target/release/distributed pp=2          # blocks
//! target/release/mlx-train launch -n 4 --backend mpi -- target/release/distributed dp=2,tp=2
//! ```
//!
//! All of them print the same losses but for the last digits, in a second or two:
//!
//! ```text
//! step 10  loss 4.9372
//! ```

use mlx_train::{
    data::{DataLoader, LoaderOptions, Order, Remainder},
    distributed::{Group, Mesh, Parallelism, PipelineOptions},
    estimate::Rows,
    optim::{AdamW, Clip},
    prelude::*,
    profile::MlxEnvironment,
    train::{StepOptions, TrainStep},
};
use std::env;

/// Rows of a step, on all ranks together.
const BATCH_SIZE: usize = 8;
/// Rows that are computed at a time.
const MICRO_BATCH_SIZE: usize = 2;
const SEQ_LEN: usize = 32;
const STEPS: u64 = 30;
const SEED: u64 = 42;

fn main() -> Result<()> {
    // Before anything else: what MLX reads from the environment, under `mpirun` the library of MPI.
    MlxEnvironment::default().enter()?;

    // ANCHOR: mesh
    // Alone, unless a launcher says otherwise.
    let group = Group::of_environment()?;
    let parallelism = match env::args().nth(1) {
        Some(text) => text.parse()?,
        None => Parallelism::data(group.world_size()),
    };
    let mesh = Mesh::new(&group, parallelism)?;
    // ANCHOR_END: mesh

    let entry = ModelRegistry::get_model("transformer")?;
    let sizes = ["vocab_size=256", "hidden_size=32", "num_layers=2", "num_heads=2", "dropout=0.0"];
    let mut model = rng::scope(&rng::key(SEED)?, || entry.build(sizes))?;

    // ANCHOR: rows
    // Ranks that hold parts of one model read the same rows; the others each their own.
    let (rank, world_size) = (mesh.data().rank(), mesh.data().world_size());
    if !(BATCH_SIZE / MICRO_BATCH_SIZE).is_multiple_of(world_size) {
        return Err(Error::message(format!("{world_size} ranks cannot share {BATCH_SIZE} rows")));
    }
    let micro_batches = BATCH_SIZE / MICRO_BATCH_SIZE / world_size;
    let text = Text::new(include_str!("distributed.rs"), "this file").windows(SEQ_LEN)?;
    let mut loader = DataLoader::new(
        text,
        LoaderOptions {
            batch_size: MICRO_BATCH_SIZE,
            order: Order::Sequential,
            rank,
            world_size,
            remainder: Remainder::Drop,
            ..LoaderOptions::default()
        },
    )?;
    // ANCHOR_END: rows

    // ANCHOR: step
    let options = StepOptions {
        clip: Clip::default().global_norm(1.0)?,
        // What rows are like: a pipeline finds out by it what each of its stages needs.
        pipeline: PipelineOptions {
            rows: Some(Rows::tokens(SEQ_LEN as i32)),
            ..Default::default()
        },
        ..StepOptions::default()
    };
    let mut step = TrainStep::parallel(&mesh, &mut model, AdamW::default(), SEED, options)?;
    for number in 1..=STEPS {
        let output = step.run((0..micro_batches).map(|_| loader.next_batch()), 3e-3)?;
        if number.is_multiple_of(10) && group.is_first() {
            println!("step {number}  loss {:.4}", output.loss.value.try_item_exact::<f32>()?);
        }
    }
    // A rank that ended earlier would look like one that is lost.
    group.barrier()
    // ANCHOR_END: step
}
