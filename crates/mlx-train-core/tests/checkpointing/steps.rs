//! Whole training steps: what a run carries is the same under every policy.

use super::models::{Deep, POLICIES, batch, bits, policy};
use mlx_train_core::{
    Result,
    optim::{AdamW, Clip},
    train::{CompileMode, Precision, StepOptions, TrainStep},
};

/// Loss, weights, running means, moments and key after two steps of some micro-batches, as bits by name.
fn run(num_micro_batches: u64, options: &StepOptions) -> Result<Vec<(String, Vec<u8>)>> {
    let mut model = Deep::new(3)?;
    let mut step = TrainStep::new(&mut model, AdamW::default(), 5, options.clone())?;
    let mut loss = Vec::new();
    for number in 0..2 {
        let seeds = (0..num_micro_batches).map(|index| 100 * number + 10 * index);
        let output = step.run(seeds.map(|seed| batch(4, seed)), 0.01)?;
        loss.push(("loss".into(), bits(&output.loss.value)?));
    }
    let state = step.snapshot()?;
    let named = state.weights.into_iter().chain(state.training);
    let arrays =
        named.map(|(name, array)| Ok((name, bits(&array)?))).collect::<Result<Vec<_>>>()?;
    Ok([loss, arrays].concat())
}

/// Runs with each policy, and compares everything with what `none` gives.
#[track_caller]
fn assert_equal_under(policies: &[&str], num_micro_batches: u64, options: &StepOptions) {
    let expected = run(num_micro_batches, options).unwrap();
    for text in policies {
        let options = StepOptions { gradient_checkpointing: policy(text), ..options.clone() };
        for (got, expected) in run(num_micro_batches, &options).unwrap().iter().zip(&expected) {
            assert!(got == expected, "{text}: {} differs from {}", got.0, expected.0);
        }
    }
}

fn options(compile: CompileMode, precision: Precision) -> StepOptions {
    let clip = Clip::default().global_norm(0.5).unwrap();
    StepOptions { clip, compile, precision, ..StepOptions::default() }
}

#[test]
fn eager_steps_end_in_the_same_bits_in_every_precision() {
    let bf16 = Precision::Bf16 { stochastic_rounding: true };
    for precision in [Precision::F32, Precision::Mixed, bf16] {
        assert_equal_under(&POLICIES, 1, &options(CompileMode::Off, precision));
    }
}

#[test]
fn accumulated_steps_end_in_the_same_bits() {
    assert_equal_under(&POLICIES, 3, &options(CompileMode::Off, Precision::F32));
}

#[test]
fn compiled_steps_end_in_the_same_bits() {
    // Two policies that have all that can differ: on a CPU each new kernel is half a second of g++.
    let policies = ["full", "selective=[mix]"];
    assert_equal_under(&policies, 1, &options(CompileMode::On, Precision::F32));
}
