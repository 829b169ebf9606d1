//! Steps that are begun before the one before has ended.

use super::models::{
    Mlp, Noting, adamw, arrays, assert_same_bits, batch, bits, clip, compiled, eager,
};
use mlx_train_core::{
    Array, Error, Result,
    data::Batch,
    ffi,
    model::BaseModel,
    train::{StepOptions, TrainStep},
};
use std::{collections::BTreeMap, thread, time::Duration};

/// The bits of losses and norms, and all arrays after the last step.
type Left = (Vec<Vec<u8>>, BTreeMap<String, Array>);

/// What eight steps of one or two micro-batches leave.
fn eight_steps<M: BaseModel>(
    mut model: M,
    options: &StepOptions,
    make: impl Fn(u64) -> Result<Batch>,
    ahead: bool,
) -> Result<Left> {
    let mut step = TrainStep::new(&mut model, adamw()?, 7, options.clone())?;
    let (mut outputs, mut begun) = (Vec::new(), Vec::new());
    for at in 0..8 {
        let batches: Vec<_> = (0..=at % 2).map(|part| make(10 * at + part)).collect();
        if ahead {
            begun.push(step.run_ahead(batches, 0.02)?);
        } else {
            outputs.push(step.run(batches, 0.02)?);
        }
    }
    // Waited for after the last has been begun.
    for ahead in begun {
        outputs.push(ahead.wait()?);
    }
    let numbers = outputs.iter().flat_map(|it| [&it.loss.value, &it.grad_norm]).map(bits).collect();
    Ok((numbers, arrays(&step)?))
}

#[test]
fn steps_are_the_same_however_they_are_begun_and_waited_for() -> Result<()> {
    /// How a step is taken.
    #[derive(Clone, Copy)]
    enum Way {
        Waited,
        Ahead,
        /// With data that the step has to wait for.
        Late,
        /// And nobody asks for its numbers.
        Dropped,
    }
    let arrays_after = |ways: &[Way], options: &StepOptions| -> Result<_> {
        let mut model = Mlp::new(4, 16, 3, 0.3)?;
        let mut step = TrainStep::new(&mut model, adamw()?, 7, options.clone())?;
        let mut begun = Vec::new();
        for (seed, way) in (0..).zip(ways) {
            let batches = [batch(12, seed)].into_iter();
            match way {
                Way::Waited => drop(step.run(batches, 0.02)?),
                Way::Ahead => begun.push(step.run_ahead(batches, 0.02)?),
                Way::Late => {
                    let late = batches.inspect(|_| thread::sleep(Duration::from_millis(5)));
                    begun.push(step.run_ahead(late, 0.02)?);
                }
                Way::Dropped => drop(step.run_ahead(batches, 0.02)?),
            }
        }
        begun.into_iter().try_for_each(|ahead| ahead.wait().map(drop))?;
        arrays(&step)
    };
    for options in [eager(), compiled()] {
        let expected = arrays_after(&[Way::Waited; 6], &options)?;
        let mixed = [Way::Ahead, Way::Waited, Way::Late, Way::Late, Way::Ahead, Way::Dropped];
        for ways in [mixed, [Way::Late; 6], [Way::Dropped; 6]] {
            assert_same_bits(&arrays_after(&ways, &options)?, &expected);
        }
    }
    Ok(())
}

/// What a step is given to the device as.
#[derive(Debug, PartialEq)]
enum Given {
    Loss,
    /// Everything else, and the loss.
    Rest,
    /// The numbers that are told, which are waited for.
    Numbers,
}

/// What MLX was asked to compute in `f`, in its order, of steps of the given model.
fn given(
    options: StepOptions,
    f: impl FnOnce(&mut TrainStep<'_, Mlp>) -> Result<()>,
) -> Result<Vec<Given>> {
    let mut model = Mlp::new(4, 16, 3, 0.0)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 7, options)?;
    let ((), noted) = ffi::without_evaluation(|| f(&mut step))?;
    let kinds = noted.evaluations.iter().map(|it| match (it.arrays.len(), it.waits) {
        (2, false) => Given::Loss,
        (_, false) => Given::Rest,
        (_, true) => Given::Numbers,
    });
    Ok(kinds.collect())
}

#[test]
fn the_rest_of_a_compiled_step_is_given_when_the_next_is_begun_or_it_is_waited_for() -> Result<()> {
    use Given::{Loss, Numbers, Rest};
    let batches: Vec<_> = (0..3).map(|seed| batch(12, seed)).collect::<Result<_>>()?;
    let next = |at: usize| [Ok(batches[at].clone())];
    let found = given(compiled(), |step| {
        let first = step.run_ahead(next(0), 0.02)?;
        let second = step.run_ahead(next(1), 0.02)?;
        first.wait()?;
        second.wait().map(drop)
    })?;
    assert_eq!(found, [Loss, Rest, Loss, Numbers, Rest, Numbers]);

    // A batch that fails leaves the step before to whoever waits for it.
    let fails = || [Err(Error::message("the disk is gone"))];
    let found = given(compiled(), |step| {
        let ahead = step.run_ahead(next(0), 0.02)?;
        assert!(step.run_ahead(fails(), 0.02).is_err());
        ahead.wait().map(drop)
    })?;
    assert_eq!(found, [Loss, Rest, Numbers]);

    // After a batch that came late, everything is given before the next is asked for.
    let found = given(compiled(), |step| {
        let late = next(0).into_iter().inspect(|_| thread::sleep(Duration::from_millis(5)));
        let ahead = step.run_ahead(late, 0.02)?;
        assert!(step.run_ahead(fails(), 0.02).is_err());
        drop(ahead);
        Ok(())
    })?;
    assert_eq!(found, [Loss, Rest]);

    // What nobody waits for is not computed after another state was put in its place.
    let found = given(compiled(), |step| {
        let (before, at) = (step.snapshot()?, step.state().step());
        drop(step.run_ahead(next(0), 0.02)?);
        step.restore(&before, at)?;
        step.run(next(1), 0.02).map(drop)
    })?;
    assert_eq!(found, [Loss, Numbers]);

    // An eager step is given as a whole: its numbers, parameters, and all.
    let found = given(eager(), |step| {
        drop(step.run_ahead(next(0), 0.02)?);
        Ok(())
    })?;
    assert_eq!(found, [Rest, Rest, Rest]);
    Ok(())
}

#[test]
fn a_step_that_is_dropped_gives_the_device_all_of_it() -> Result<()> {
    let mut model = Mlp::new(4, 16, 3, 0.0)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 7, compiled())?;
    let first = batch(12, 0)?;
    let ((), noted) = ffi::without_evaluation(|| {
        drop(step.run_ahead([Ok(first)], 0.02)?);
        drop(step);
        Ok(())
    })?;
    assert_eq!(noted.evaluations.len(), 2);
    Ok(())
}

#[test]
fn steps_ahead_are_the_same_to_the_last_bit() -> Result<()> {
    let clipped = StepOptions { clip: clip(0.5)?, ema_decay: Some(0.9), ..eager() };
    for options in [eager(), clipped, compiled()] {
        let run = |ahead| {
            let model = Mlp::new(4, 16, 3, 0.3)?;
            eight_steps(model, &options, |seed| batch(12, seed), ahead)
        };
        let ((numbers, after), (numbers_ahead, after_ahead)) = (run(false)?, run(true)?);
        assert_eq!(numbers, numbers_ahead);
        assert_same_bits(&after, &after_ahead);
    }
    // With what the loss moves besides.
    let floats = |seed| batch(12, seed).map(|it| Batch::new(it.x.clone(), it.x));
    let run = |ahead| eight_steps(Noting::new(), &eager(), floats, ahead);
    let ((numbers, after), (numbers_ahead, after_ahead)) = (run(false)?, run(true)?);
    assert_eq!(numbers, numbers_ahead);
    assert_same_bits(&after, &after_ahead);
    Ok(())
}
