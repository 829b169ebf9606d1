//! The environment that a command's MLX is to find, which is chosen before it computes anything.

use super::{args::Command, profile, settings::Settings, train};
use crate::{
    Result,
    estimate::{Backend, Estimate, Estimator, Machine, Recording, Rows},
    profile::{Bytes, MlxEnvironment},
    rng,
};

/// Starts the program anew in the environment that a command computes best in, where this one is not that.
///
/// # Errors
/// When the system cannot start it anew; the command can run all the same.
pub(super) fn enter(command: &Command) -> Result<()> {
    if MlxEnvironment::is_entered() {
        return Ok(());
    }
    // What is wrong with the settings is told when they are used.
    let environment = match command {
        Command::Train(args) => {
            let environment = train::settings(args).map(|settings| of(&settings));
            let environment = environment.unwrap_or_default();
            MlxEnvironment { metal_capture: args.metal_capture.is_some(), ..environment }
        }
        Command::Profile(args) => {
            profile::settings(args).map(|settings| of(&settings)).unwrap_or_default()
        }
        Command::Estimate(args) => {
            args.step.settings().map(|settings| of(&settings)).unwrap_or_default()
        }
        Command::Generate(_) => MlxEnvironment::default(),
        // Nothing else computes on a GPU.
        _ => return Ok(()),
    };
    environment.enter()
}

/// What the settings say, and where they say nothing, what keeps a step within the memory budget.
fn of(settings: &Settings) -> MlxEnvironment {
    let memory = &settings.train.memory;
    let given = MlxEnvironment::of(memory);
    // Where there is no estimate, the run says why.
    chosen(memory.memory_budget, given.clone(), settings).unwrap_or(given)
}

fn chosen(
    budget: Option<Bytes>,
    given: MlxEnvironment,
    settings: &Settings,
) -> Result<MlxEnvironment> {
    match budget.filter(|_| given.leaves_megabytes()) {
        Some(budget) => within(budget, given, settings),
        None => given.with_defaults(),
    }
}

fn within(budget: Bytes, given: MlxEnvironment, settings: &Settings) -> Result<MlxEnvironment> {
    let machine = Machine::here()?;
    // The CPU has no buffers of operations.
    if machine.backend == Backend::Cpu {
        return Ok(given);
    }
    let recording = record(settings, &machine)?;
    given.within(budget, |megabytes| {
        let machine = with_megabytes(&machine, megabytes);
        Ok(Bytes(Estimate::of(&recording, &machine).peak_bytes))
    })
}

/// A step as the settings say, which is not computed.
fn record(settings: &Settings, machine: &Machine) -> Result<Recording> {
    let mut config = settings.train.clone();
    let rows = if settings.data.has_tokens() {
        Rows::tokens(i32::try_from(settings.data.seq_len).unwrap_or(i32::MAX))
    } else {
        Rows::of(&settings.data.load()?.training.batch(&[0])?)
    };
    let mut model = rng::scope(&rng::key(config.seed)?, || settings.model.build())?;
    let mut estimator = Estimator::new(model.as_mut(), rows, machine.clone());
    config.gradient_checkpointing = estimator.resolve(&config)?;
    estimator.record(&config)
}

/// The machine with so many megabytes in a buffer, or as it is.
fn with_megabytes(machine: &Machine, megabytes: Option<u32>) -> Machine {
    let mut machine = machine.clone();
    if let Backend::Cuda(limits) | Backend::Metal(limits) = &mut machine.backend
        && let Some(megabytes) = megabytes
    {
        limits.mega_elements = megabytes.into();
    }
    machine
}

#[cfg(test)]
mod tests {
    use super::{super::args::RunSource, *};
    use crate::estimate::PerBuffer;

    fn settings(further: &[&str]) -> Result<Settings> {
        let sizes = ["model.hidden_size=256", "model.num_layers=12", "model.num_heads=4"];
        let batch = ["model.vocab_size=512", "train.batch_size=64", "data.seq_len=256"];
        let set = [&sizes[..], &batch, further].concat().into_iter().map(str::to_owned).collect();
        Settings::resolve(&RunSource { config: None, model: Some("transformer".into()), set })
    }

    #[test]
    fn fewer_megabytes_in_a_buffer_are_estimated_to_take_less_memory() -> Result<()> {
        let limits = PerBuffer { operations: 100, mega_elements: 1000 };
        let gpu = Machine { backend: Backend::Cuda(limits), ..Machine::here()? };
        let recording = record(&settings(&[])?, &gpu)?;
        let peak =
            |megabytes| Estimate::of(&recording, &with_megabytes(&gpu, megabytes)).peak_bytes;
        assert_eq!(peak(None), peak(Some(1000)));
        assert!(peak(Some(100)) < peak(None), "{} and {}", peak(Some(100)), peak(None));
        Ok(())
    }

    #[test]
    fn a_run_without_a_budget_or_with_limits_of_its_own_estimates_nothing() -> Result<()> {
        assert_eq!(of(&settings(&[])?), MlxEnvironment::default());
        let limit = ["train.memory.max_mb_per_buffer=7", "train.memory.memory_budget=1 MiB"];
        assert_eq!(of(&settings(&limit)?).max_mb_per_buffer, Some(7));
        Ok(())
    }
}
