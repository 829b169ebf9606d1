//! Several micro-batches make the step of one large batch.

use super::models::{
    IGNORED, Mlp, adamw, arrays, assert_same_bits, batch, clip, eager, number, rows,
};
use mlx_train_core::{
    Array, Error, Result,
    data::Batch,
    train::{StepOptions, TrainError, TrainStep},
};
use parity::assert_close;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Five steps over the same rows, cut into micro-batches by `parts`.
fn train(
    options: &StepOptions,
    parts: impl Fn(&Batch) -> Result<Vec<Batch>>,
) -> Result<(BTreeMap<String, Array>, f32)> {
    let mut model = Mlp::new(4, 8, 3, 0.0)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 0, options.clone())?;
    let mut loss = 0.0;
    for seed in 0..5 {
        let parts = parts(&batch(24, seed)?)?;
        loss = number(&step.run(parts.into_iter().map(Ok), 0.02)?.loss.value);
    }
    let mut arrays = arrays(&step)?;
    // Each micro-batch takes a key of its own.
    arrays.remove("rng.key");
    Ok((arrays, loss))
}

#[track_caller]
fn assert_like_one_batch(options: &StepOptions, cuts: &[i32]) {
    let one = train(options, |batch| Ok(vec![batch.clone()])).unwrap();
    let ends = cuts.iter().copied().chain([24]);
    let parts = |batch: &Batch| {
        let starts = [0].into_iter().chain(cuts.iter().copied());
        starts.zip(ends.clone()).map(|(start, end)| rows(batch, start..end)).collect()
    };
    let several = train(options, parts).unwrap();
    for (name, array) in &one.0 {
        assert_close(name, &several.0[name], array, 1e-5, 1e-6);
    }
    assert!((one.1 - several.1).abs() <= 1e-5 * one.1, "{} and {}", one.1, several.1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    // A third of the targets is masked, so equal numbers of rows have unequal numbers of targets.
    #[test]
    fn unequal_micro_batches_give_the_update_of_one_batch(cuts in prop::collection::btree_set(1..24, 1..6)) {
        let options = StepOptions { clip: clip(0.5).unwrap(), ..eager() };
        assert_like_one_batch(&options, &cuts.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_micro_batch_without_targets_counts_for_nothing() -> Result<()> {
    let masked = |like: &Batch| {
        let rows = like.y.shape()[0];
        let nothing = Array::from_slice(&vec![IGNORED; rows as usize], &[rows]);
        Batch::new(like.x.clone(), nothing)
    };
    let options = eager();
    let (one, _) = train(&options, |batch| Ok(vec![batch.clone()]))?;
    for (at, _) in [(0, "first"), (1, "last")] {
        let (other, _) = train(&options, |batch| {
            let mut parts = vec![batch.clone()];
            parts.insert(at, masked(batch));
            Ok(parts)
        })?;
        for (name, array) in &one {
            assert_close(name, &other[name], array, 1e-5, 1e-6);
        }
    }
    Ok(())
}

#[test]
fn a_step_whose_data_fails_halfway_changes_nothing() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 0, eager())?;
    step.run([batch(4, 0), batch(4, 1)], 0.1)?;
    let before = arrays(&step)?;
    let parts = [batch(4, 2), batch(4, 3), Err(Error::message("the disk is gone"))];
    assert_eq!(step.run(parts, 0.1).unwrap_err().to_string(), "the disk is gone");
    let error = step.run([], 0.1).unwrap_err();
    assert!(matches!(error, Error::Train(TrainError::NoBatch)), "{error}");
    assert_same_bits(&arrays(&step)?, &before);
    assert_eq!(step.state().step(), 1);
    Ok(())
}
