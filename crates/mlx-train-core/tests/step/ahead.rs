//! Steps that are begun before the one before has ended.

use super::models::{
    Mlp, Noting, adamw, arrays, assert_same_bits, batch, bits, clip, compiled, eager,
};
use mlx_train_core::{
    Array, Error, Result,
    data::Batch,
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

#[test]
fn a_step_that_cannot_begin_leaves_the_one_before_to_be_waited_for() -> Result<()> {
    let mut model = Mlp::new(4, 16, 3, 0.0)?;
    let mut step = TrainStep::new(&mut model, adamw()?, 7, compiled())?;
    let before = arrays(&step)?;
    let ahead = step.run_ahead([batch(12, 0)], 0.02)?;
    assert!(step.run_ahead([Err(Error::message("the disk is gone"))], 0.02).is_err());
    assert!(ahead.wait()?.is_finite()?);
    assert_eq!(step.state().step(), 1);
    assert!(arrays(&step)?.iter().any(|(name, after)| bits(after) != bits(&before[name])));
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
