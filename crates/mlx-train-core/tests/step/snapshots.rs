//! A snapshot is all that a run needs to go on exactly.

use super::models::{Mlp, arrays, assert_same_bits, batch, clip, eager};
use mlx_rs::{Array, Dtype};
use mlx_train_core::{
    Error, Result,
    optim::{Adafactor, AdamW, Lion, Muon, Optimizer, Sgd},
    store::Mismatch,
    train::{Precision, StateArrays, StepOptions, TrainError, TrainStep},
};
use proptest::prelude::*;

fn optimizers() -> Vec<Box<dyn Optimizer>> {
    vec![
        Box::new(AdamW::default()),
        Box::new(Sgd::default()),
        Box::new(Sgd::default().momentum(0.9).unwrap()),
        Box::new(Lion::default()),
        Box::new(Adafactor::default()),
        Box::new(Muon::default()),
    ]
}

/// Arrays with memory of their own, as they come back from a file.
fn copied(arrays: &[(String, Array)]) -> Vec<(String, Array)> {
    let copy = |array: &Array| {
        let whole = array.contiguous().unwrap();
        whole.eval().unwrap();
        whole.deep_clone()
    };
    arrays.iter().map(|(name, array)| (name.clone(), copy(array))).collect()
}

fn take_steps(step: &mut TrainStep<'_, Mlp>, steps: std::ops::Range<u64>) -> Result<()> {
    for index in steps {
        // Micro-batches as they come at the end of an epoch, too: one alone, of another size.
        match index % 3 {
            0 => step.run([batch(4, index)], 0.01)?,
            1 => step.run([batch(4, index), batch(3, index + 50)], 0.01)?,
            _ => step.run([batch(2, index)], 0.02)?,
        };
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_run_ends_in_the_same_bits(
        which in 0..optimizers().len(),
        precision in prop::sample::select(vec![
            Precision::F32,
            Precision::Mixed,
            Precision::Bf16 { stochastic_rounding: true },
        ]),
        stop in 0_u64..6,
        ema_decay in prop::option::of(Just(0.9)),
    ) {
        let options = StepOptions { precision, ema_decay, clip: clip(0.5).unwrap(), ..eager() };
        let optimizer = || optimizers().swap_remove(which);
        let (mut model, mut other) = (Mlp::new(4, 8, 3, 0.3).unwrap(), Mlp::new(4, 8, 3, 0.3).unwrap());
        let mut step = TrainStep::new(&mut model, optimizer(), 1, options.clone()).unwrap();
        take_steps(&mut step, 0..stop).unwrap();
        let StateArrays { weights, training } = step.snapshot().unwrap();
        let saved = StateArrays { weights: copied(&weights), training: copied(&training) };
        drop((weights, training));
        take_steps(&mut step, stop..6).unwrap();

        // Another process: other weights, another seed.
        let mut resumed = TrainStep::new(&mut other, optimizer(), 2, options).unwrap();
        take_steps(&mut resumed, 0..2).unwrap();
        resumed.restore(&saved, stop).unwrap();
        prop_assert_eq!(resumed.state().step(), stop);
        take_steps(&mut resumed, stop..6).unwrap();
        assert_same_bits(&arrays(&step).unwrap(), &arrays(&resumed).unwrap());
    }
}

#[test]
fn a_snapshot_does_not_move_with_the_run() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step = TrainStep::new(&mut model, AdamW::default(), 1, eager())?;
    take_steps(&mut step, 0..2)?;
    let before = arrays(&step)?;
    let expected = before.iter().map(|(name, array)| (name.clone(), super::models::bits(array)));
    let expected: Vec<_> = expected.collect();
    take_steps(&mut step, 2..4)?;
    for (name, bits) in expected {
        assert_eq!(super::models::bits(&before[&name]), bits, "{name}");
    }
    Ok(())
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_with_every_difference() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let mut step = TrainStep::new(&mut model, AdamW::default(), 1, eager())?;
    let before = arrays(&step)?;
    let mut saved = step.snapshot()?;
    saved.weights.retain(|(name, _)| name != "first.bias");
    saved.weights.push(("third.weight".into(), Array::from_f32(1.0)));
    for (name, array) in saved.weights.iter_mut().chain(&mut saved.training) {
        match name.as_str() {
            "first.weight" => *array = array.transpose()?,
            "optimizer.second.bias.m" => *array = array.as_dtype(Dtype::Bfloat16)?,
            _ => {}
        }
    }
    let twice = saved.training[0].clone();
    saved.training.push(twice);
    let error = step.restore(&saved, 9).unwrap_err();
    let text = error.to_string();
    let Error::Train(TrainError::StateMismatch { problems }) = error else { panic!("{text}") };
    assert!(
        matches!(
            &problems[..],
            [
                Mismatch::Missing { .. },
                Mismatch::Shape { .. },
                Mismatch::Unexpected { .. },
                Mismatch::Twice { .. },
                Mismatch::Dtype { .. },
            ]
        ),
        "{text}"
    );
    for name in ["first.bias", "first.weight", "third.weight", "optimizer.second.bias.m"] {
        assert!(text.contains(name), "{text}");
    }
    assert_same_bits(&arrays(&step)?, &before);
    assert_eq!(step.state().step(), 0);
    Ok(())
}

#[test]
fn names_of_a_saved_state_stay_what_they_are() -> Result<()> {
    let mut model = Mlp::new(4, 8, 3, 0.3)?;
    let options = StepOptions { ema_decay: Some(0.9), ..eager() };
    let step = TrainStep::new(&mut model, Sgd::default().momentum(0.9)?, 1, options)?;
    let StateArrays { weights, training } = step.snapshot()?;
    let names = |arrays: &[(String, Array)]| -> Vec<String> {
        arrays.iter().map(|(name, _)| name.clone()).collect()
    };
    let parameters = ["first.bias", "first.weight", "second.bias", "second.weight"];
    assert_eq!(names(&weights), parameters);
    let state = |name: fn(&str) -> String| parameters.map(name);
    let expected = [
        &state(|name| format!("optimizer.{name}.v"))[..],
        &state(|name| format!("ema.{name}"))[..],
        &["optimizer.updates".to_owned(), "rng.key".to_owned()],
    ];
    assert_eq!(names(&training), expected.concat());
    Ok(())
}
