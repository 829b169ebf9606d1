//! Steps that are begun before the one before has ended.

use super::models::{
    Mlp, Noting, adamw, arrays, assert_same_bits, batch, bits, clip, compiled, eager,
};
use mlx_train_core::{
    Array, Result,
    data::Batch,
    model::BaseModel,
    train::{StepOptions, TrainStep},
};
use std::collections::BTreeMap;

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
