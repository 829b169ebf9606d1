//! Whether the steps of a run fit in memory, asked before the first.

use super::{TrainConfig, TrainError};
use crate::{
    Result,
    batch::Batch,
    bytes::Bytes,
    checkpoint::CheckpointPolicy,
    estimate::{Change, Estimate, Estimator, Limit, Machine, Rows},
    model::BaseModel,
    optim::Optimizer,
    profile::MemoryCheck,
};

/// Chooses the policy that `auto` stands for, and looks whether a step on such a batch fits; what a person
/// should know, where the run goes on all the same.
///
/// # Errors
/// [`TrainError::DoesNotFit`] where that is refused; when no policy fits what `auto` allows.
pub(super) fn check_memory<M: BaseModel + ?Sized>(
    model: &mut M,
    config: &mut TrainConfig,
    optimizer: &dyn Optimizer,
    batch: impl FnOnce() -> Option<Batch>,
    machine: Machine,
) -> Result<Option<String>> {
    let check = config.memory.memory_check;
    let is_auto = matches!(config.gradient_checkpointing, CheckpointPolicy::Auto(_));
    if check == MemoryCheck::Off && !is_auto {
        return Ok(None);
    }
    let Some(batch) = batch() else { return Ok(None) };
    let limit = machine.limit;
    let mut estimator = Estimator::new(model, Rows::of(&batch), machine).optimizer(optimizer);
    config.gradient_checkpointing = estimator.resolve(config)?;
    let Some(Limit { bytes, source }) = limit.filter(|_| check != MemoryCheck::Off) else {
        return Ok(None);
    };
    // A step that is refused is refused again when it is taken, where it belongs.
    let Ok(Estimate { peak_bytes: needed, .. }) = estimator.estimate(config) else {
        return Ok(None);
    };
    if needed <= bytes {
        return Ok(None);
    }
    let nearest = nearest(&estimator.nearest(config, bytes)?);
    let (needed, limit) = (Bytes(needed), Bytes(bytes));
    let refused = TrainError::DoesNotFit { needed, limit, source_of_limit: source.name(), nearest };
    if check == MemoryCheck::Refuse { Err(refused.into()) } else { Ok(Some(refused.to_string())) }
}

/// Settings that fit, one a line.
fn nearest(changes: &[Change]) -> String {
    if changes.is_empty() {
        return " none, whatever the batch size and the checkpoint policy; make the model smaller, or keep less of it \
                (another optimizer, train.precision, frozen parameters)"
            .into();
    }
    let lines: Vec<String> = changes.iter().map(|change| format!("\n  {change}")).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Array, Error,
        estimate::LimitSource,
        loss,
        model::Loss,
        nn::{Linear, Stack},
        optim::AdamW,
    };
    use mlx_rs::{
        Dtype,
        module::Module,
        ops::{tanh, zeros_dtype},
    };

    #[derive(Debug, crate::ModuleParameters)]
    struct Deep {
        #[param]
        layers: Stack<Linear>,
    }

    impl BaseModel for Deep {
        fn forward(&mut self, x: &Array) -> Result<Array> {
            self.layers.forward(x.clone(), |layer, _, x| {
                (0..4).try_fold(layer.forward(&x)?, |x, _| Ok(tanh(x)?))
            })
        }

        fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
            loss::mse(&self.forward(x)?, y)
        }
    }

    /// What is said of a step on 4096 rows, with this policy and so much memory, and the policy that was chosen.
    fn check(
        policy: CheckpointPolicy,
        memory_check: MemoryCheck,
        limit: u64,
    ) -> Result<(Option<String>, CheckpointPolicy)> {
        let layers = (0..8).map(|_| Ok(Linear::new(16, 16)?)).collect::<Result<_>>()?;
        let mut config = TrainConfig {
            batch_size: 4096,
            gradient_checkpointing: policy,
            ..TrainConfig::default()
        };
        config.memory.memory_check = memory_check;
        let rows = zeros_dtype(&[4096, 16], Dtype::Float32)?;
        let batch = Batch::new(rows.clone(), rows);
        let mut machine = Machine::here()?;
        machine.limit = Some(Limit { bytes: limit, source: LimitSource::Ram });
        let said = check_memory(
            &mut Deep { layers },
            &mut config,
            &AdamW::default(),
            || Some(batch),
            machine,
        )?;
        Ok((said, config.gradient_checkpointing))
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_step_that_does_not_fit_is_told_with_settings_that_do() -> Result<()> {
        let (none, warn) = (CheckpointPolicy::None, MemoryCheck::Warn);
        assert_eq!(check(none.clone(), warn, 1 << 40)?.0, None);
        assert_eq!(check(none.clone(), MemoryCheck::Off, MIB)?.0, None);
        let (said, _) = check(none.clone(), warn, 9 * MIB)?;
        let said = said.expect("it does not fit");
        let settings: Vec<&str> = said.lines().skip(1).collect();
        assert!((1..=3).contains(&settings.len()), "{said}");
        assert!(said.contains("the memory that MLX may use is 9.0 MiB"), "{said}");
        assert!(said.contains("batch_size = 4096") && said.contains("\"full\""), "{said}");

        let refused = check(none.clone(), MemoryCheck::Refuse, 9 * MIB).unwrap_err();
        assert!(matches!(refused, Error::Train(TrainError::DoesNotFit { .. })), "{refused}");
        let (said, _) = check(none, warn, 1000)?;
        assert!(said.is_some_and(|said| said.contains("make the model smaller")));
        Ok(())
    }

    #[test]
    fn auto_is_the_cheapest_policy_that_fits_whatever_the_device_has() -> Result<()> {
        let auto = |bytes| check(CheckpointPolicy::Auto(Bytes(bytes)), MemoryCheck::Off, 1 << 40);
        assert_eq!(auto(1 << 40)?.1, CheckpointPolicy::None);
        assert_eq!(auto(12 * MIB)?.1, CheckpointPolicy::Every(2));
        assert_eq!(auto(9 * MIB)?.1, CheckpointPolicy::Full);
        let refused = auto(MIB).unwrap_err().to_string();
        assert!(refused.contains("no checkpoint policy fits 1.0 MiB"), "{refused}");
        Ok(())
    }
}
