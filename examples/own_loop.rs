//! A training loop of your own, from the pieces that `Trainer` is made of.
//!
//! ```text
//! cargo run --release -p mlx-train-examples --bin own_loop        # 80 steps in a few seconds
//! cargo run --release -p mlx-train-examples --bin own_loop -- 40  # 40 of them; the next call goes on
//! ```
//!
//! Whether it was interrupted or not, the last line is the same.

use mlx_train::{
    data::{DataLoader, LoaderOptions, Position},
    optim::{AdamW, Clip, ScheduleConfig},
    prelude::*,
    store::{Check, CheckpointConfig, Checkpoints, Saver, Snapshot},
    train::{StateArrays, StepOptions, StepOutput, TrainStep},
};
use std::{env, fs};

const FOLDER: &str = "runs/own-loop";
const STEPS: u64 = 80;
const SEED: u64 = 42;

fn main() -> Result<()> {
    let stop_at = env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);

    // ANCHOR: pieces
    let sizes = ["preset=tiny", "num_layers=1", "dropout=0.1"];
    let entry = ModelRegistry::get_model("transformer")?;
    let mut model = rng::scope(&rng::key(SEED)?, || entry.build(sizes))?;
    let text = Text::new(include_str!("own_loop.rs"), "this file").windows(32)?;
    let options = LoaderOptions { batch_size: 4, seed: SEED, ..LoaderOptions::default() };
    let mut loader = DataLoader::new(text, options)?;
    let schedule = ScheduleConfig::Cosine.build(3e-3, 3e-4, 10, STEPS)?;
    let options = StepOptions { clip: Clip::default().global_norm(1.0)?, ..Default::default() };
    let mut step = TrainStep::new(&mut model, AdamW::default(), SEED, options)?;
    // ANCHOR_END: pieces

    // ANCHOR: resume
    let checkpoints = match fs::exists(FOLDER) {
        Ok(true) => Checkpoints::open(FOLDER)?,
        _ => Checkpoints::create(FOLDER)?,
    };
    if let Some(latest) = checkpoints.latest()? {
        let loaded = latest.load(Check::Hashes)?;
        let position: Position = serde_json::from_value(loaded.progress).map_err(not_ours)?;
        loader.resume_at(&position)?;
        let state = StateArrays { weights: loaded.weights, training: loaded.training };
        step.restore(&state, loaded.manifest.step)?;
        println!("going on after step {}", loaded.manifest.step);
    }
    // ANCHOR_END: resume

    // ANCHOR: loop
    let mut saver = Saver::new(checkpoints, &CheckpointConfig::default())?;
    while step.state().step() < stop_at.min(STEPS) {
        let learning_rate = schedule.at(step.state().step());
        // Two micro-batches a step.
        let output = step.run(loader.by_ref().take(2), learning_rate)?;
        let taken = step.state().step();
        if taken.is_multiple_of(20) {
            report(taken, &output)?;
            saver.save(|| {
                let progress = serde_json::to_value(loader.position()).map_err(not_ours)?;
                Ok(Snapshot { progress, ..step.snapshot()?.to_host(taken)? })
            })?;
        }
    }
    for saved in saver.finish() {
        saved.result?;
    }
    // ANCHOR_END: loop
    Ok(())
}

fn report(step: u64, output: &StepOutput) -> Result<()> {
    let loss = output.loss.value.try_item_exact::<f32>()?;
    let grad_norm = output.grad_norm.try_item_exact::<f32>()?;
    println!("step {step:>2}  loss {loss:.6}  gradient norm {grad_norm:.6}");
    Ok(())
}

fn not_ours(error: serde_json::Error) -> Error {
    Error::message(format!("`{FOLDER}` was not saved by this program: {error}"))
}
