//! Estimates of memory against MLX's own counter. It is of the whole process, so this is one test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_train_core::{
    Result,
    checkpoint::CheckpointPolicy,
    estimate::{Estimator, Machine, Rows},
    ffi,
    profile::Memory,
    registry::ModelRegistry,
    rng,
    train::{CompileMode, Precision, TrainConfig, TrainStep},
};
// Links the models.
use mlx_train_models as _;

const DEEP: &[&str] =
    &["vocab_size=256", "hidden_size=64", "num_layers=5", "num_heads=4", "dropout=0.1"];
const LARGE_VOCABULARY: &[&str] =
    &["vocab_size=8192", "hidden_size=64", "num_layers=1", "num_heads=4"];

/// What MLX holds at its most in two steps, over what was estimated before the model had weights.
fn ratio(set: &[&str], config: &TrainConfig) -> Result<f64> {
    let rows = Rows::tokens(64);
    let mut model =
        rng::scope(&rng::key(0)?, || ModelRegistry::get_model("transformer")?.build(set))?;
    let before = Memory::now()?.active_bytes;
    let estimate = Estimator::new(&mut model, rows.clone(), Machine::here()?).estimate(config)?;
    let taken = Memory::now()?.active_bytes - before;
    assert!(taken < 1 << 16, "the estimate itself holds {taken} bytes");

    let batch = rows.batch(config.batch_size)?;
    ffi::eval(batch.arrays())?;
    let optimizer = config.optimizer.build(&config.groups)?;
    let mut step = TrainStep::new(&mut model, optimizer, 0, config.step_options()?)?;
    Memory::reset_peak()?;
    for _ in 0..2 {
        step.run((0..config.accumulation).map(|_| Ok(batch.clone())), 1e-3)?;
    }
    Ok(Memory::now()?.peak_bytes as f64 / estimate.peak_bytes as f64)
}

#[test]
fn estimates_are_within_15_percent_of_what_mlx_holds() -> Result<()> {
    let config = TrainConfig { batch_size: 8, compile: CompileMode::Off, ..TrainConfig::default() };
    let with = |policy: &str, precision, accumulation| -> Result<TrainConfig> {
        let gradient_checkpointing: CheckpointPolicy = policy.parse()?;
        Ok(TrainConfig { gradient_checkpointing, precision, accumulation, ..config.clone() })
    };
    let small = TrainConfig { batch_size: 4, ..with("none", Precision::Mixed, 1)? };
    let cases = [
        (DEEP, with("none", Precision::F32, 1)?),
        (DEEP, with("full", Precision::F32, 1)?),
        (DEEP, with("selective=[mlp]", Precision::F32, 2)?),
        (LARGE_VOCABULARY, with("none", Precision::F32, 1)?),
        (DEEP, small),
    ];
    for (set, config) in cases {
        let ratio = ratio(set, &config)?;
        let policy = &config.gradient_checkpointing;
        assert!((ratio - 1.0).abs() < 0.15, "{set:?} {policy} {:?}: {ratio:.3}", config.precision);
    }
    Ok(())
}
