//! A run over ranks begins in the memory of what a rank will hold, and of no whole model.

use super::{
    deep::{Deep, rows},
    ranks::run,
    run::Folder,
};
use mlx_train_core::{
    Result,
    config::ModelConfig,
    data::InMemory,
    distributed::Mesh,
    profile::Memory,
    store::{Checkpoints, LoadOptions, StoredWeights, save_weights},
    train::{Event, Resume, TrainConfig, Trainer},
};
use std::path::PathBuf;

const NUM_BLOCKS: usize = 20;

/// Of the parameters of a block.
const BLOCK_BYTES: f64 = 4.0 * (2.0 * 128.0 * 256.0 + 256.0 + 2.0 * 128.0);

/// What a run begins with.
enum Begin {
    Drawn,
    Weights(PathBuf),
    Checkpoint(PathBuf),
}

/// What rank 0 has seen of a run.
#[derive(Debug, Default)]
struct Seen {
    /// What MLX holds when the first step begins, in blocks; a batch was evaluated by then.
    held: f64,
    /// The most that it has held until then.
    peak: f64,
    losses: Vec<f64>,
}

fn deep(seed: usize) -> Result<Deep> {
    Deep::new(seed as u64, 128, NUM_BLOCKS, 0.0)
}

/// Moments would hide a whole model; they are what is loaded besides one.
fn config(optimizer: &str, steps: u64) -> Result<TrainConfig> {
    let config = TrainConfig { steps, batch_size: 8, log_every: 1, ..TrainConfig::default() };
    Ok(config.with_overrides([&format!("optimizer={optimizer}"), "pipeline_blocks=even"])?)
}

fn data() -> Result<InMemory> {
    let batch = rows(0, 0..8);
    InMemory::new(batch.x, batch.y)
}

/// A step on a model of which nothing is computed before.
fn see(mesh: &Mesh, begin: &Begin) -> Result<Seen> {
    let (data, mut seen) = (data()?, Seen::default());
    let before = Memory::now()?.active_bytes as f64;
    Memory::reset_peak()?;
    let mut model = deep(mesh.all().rank())?;
    let config = match begin {
        Begin::Checkpoint(_) => config("adamw", 2)?,
        _ => config("sgd", 1)?,
    };
    let trainer = Trainer::new(&mut model, config)?.mesh(mesh.clone()).evaluate_on(&data);
    let trainer = match begin {
        Begin::Drawn => trainer,
        Begin::Weights(path) => {
            trainer.weights(StoredWeights::open(&deep(0)?, path, &LoadOptions::default())?)
        }
        Begin::Checkpoint(path) => trainer.resume(Resume::Path(path.clone())),
    };
    let trainer = trainer.on_event(|event| {
        if let Event::Started(_) = event {
            let now = Memory::now().unwrap();
            let blocks = |bytes: u64| (bytes as f64 - before) / BLOCK_BYTES;
            (seen.held, seen.peak) = (blocks(now.active_bytes), blocks(now.peak_bytes));
        }
    });
    let history = trainer.run(data.clone())?.history;
    seen.losses = history.training.iter().map(|point| point.loss).collect();
    Ok(seen)
}

#[test]
fn a_run_begins_in_the_memory_of_its_part_whatever_it_begins_with() {
    let test = "start::a_run_begins_in_the_memory_of_its_part_whatever_it_begins_with";
    let folder = Folder::new("start");
    run(test, 2, |group| {
        let (weights, checkpoints) = (folder.0.join("w.safetensors"), folder.checkpoints());
        if group.is_first() {
            save_weights(&deep(9)?, &weights)?;
            let to = Checkpoints::create(&checkpoints)?;
            let mut model = deep(8)?;
            Trainer::new(&mut model, config("adamw", 1)?)?.checkpoints(to).run(data()?)?;
        }
        group.barrier()?;
        let checkpoint = folder.latest();
        for begin in [Begin::Drawn, Begin::Weights(weights), Begin::Checkpoint(checkpoint)] {
            let one = see(&Mesh::alone(), &begin)?;
            for layout in ["fsdp=2", "tp=2", "pp=2"] {
                let mesh = Mesh::new(group, layout.parse()?)?;
                let ours = see(&mesh, &begin)?;
                if !group.is_first() {
                    continue;
                }
                let seen = format!("{layout}: {ours:?} of {one:?}");
                let share = ours.held / one.held * 2.0;
                assert!(share < 1.03, "{share} of a rank's part is held: {seen}");
                // A few parameters; with fsdp, the blocks that an evaluation gathers ahead.
                let besides = if layout == "fsdp=2" { 7.0 } else { 2.0 };
                assert!(ours.peak - ours.held < besides, "{seen}");
                for (ours, one) in ours.losses.iter().zip(&one.losses) {
                    assert!((ours - one).abs() < 1e-5, "{seen}");
                }
            }
        }
        group.barrier()
    });
}
