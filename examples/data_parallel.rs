//! A training loop that runs as one process, or as several that share each batch.
//!
//! ```text
//! cargo build --release -p mlx-train-examples --bin data_parallel
//! target/release/data_parallel                                                     # one process
//! cargo run --release --bin mlx-train -- launch -n 2 -- target/release/data_parallel  # two ranks
//! ```
//!
//! Both see the same eight rows in each step, so their losses are the same but for the last digits.

use mlx_train::{
    data::{DataLoader, LoaderOptions, Order, Remainder},
    distributed::Group,
    optim::{AdamW, Clip},
    prelude::*,
    train::{StepOptions, TrainStep},
};

const BATCH_SIZE: usize = 8;
const STEPS: u64 = 60;
const SEED: u64 = 42;

fn main() -> Result<()> {
    // Alone, unless a launcher says otherwise.
    let group = Group::of_environment()?;
    let (rank, world_size) = (group.rank(), group.world_size());
    if !BATCH_SIZE.is_multiple_of(world_size) {
        return Err(Error::message(format!("{world_size} ranks cannot share {BATCH_SIZE} rows")));
    }

    let entry = ModelRegistry::get_model("transformer")?;
    let sizes = ["preset=tiny", "num_layers=1", "dropout=0.0"];
    let mut model = rng::scope(&rng::key(SEED)?, || entry.build(sizes))?;
    let text = Text::new(include_str!("data_parallel.rs"), "this file").windows(32)?;
    let mut loader = DataLoader::new(
        text,
        LoaderOptions {
            batch_size: BATCH_SIZE / world_size,
            order: Order::Sequential,
            rank,
            world_size,
            remainder: Remainder::Drop,
            ..LoaderOptions::default()
        },
    )?;

    let options = StepOptions { clip: Clip::default().global_norm(1.0)?, ..Default::default() };
    let mut step = TrainStep::data_parallel(&group, &mut model, AdamW::default(), SEED, options)?;
    for number in 1..=STEPS {
        let output = step.run([loader.next_batch()], 3e-3)?;
        if number.is_multiple_of(20) && group.is_first() {
            println!("step {number}  loss {:.4}", output.loss.value.try_item_exact::<f32>()?);
        }
    }
    // A rank that ended earlier would look like one that is lost.
    group.barrier()
}
