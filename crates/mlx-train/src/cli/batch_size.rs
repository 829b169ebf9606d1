//! `train --find-batch-size`: the largest batch that runs, found by trying.
//!
//! Each try is a process of its own, whose memory the system has back when it ends, however it ends. The estimate
//! says where to begin, so a few tries are enough.

use super::settings::Settings;
use crate::{
    Error, Result,
    estimate::{Estimator, Machine, Rows},
    ffi::device_info,
    profile::{Bytes, Memory, MemoryLimits},
    rng,
    train::TrainStep,
};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    io::{Write, stderr},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How many batch sizes are tried at most.
const MAX_TRIES: usize = 8;

/// How long one try may take.
const MAX_TIME: Duration = Duration::from_mins(10);

/// How often a try is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How many steps a try takes: the first holds less where the optimizer makes its state in it.
const STEPS: usize = 2;

/// Nothing is tried whose estimate is this many times what there is: the system could go down with it.
const MAX_OVER_LIMIT: f64 = 1.25;

/// What a try has measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Tried {
    peak_bytes: u64,
    seconds: f64,
}

/// The largest batch size whose steps run within what the device has, or the budget.
///
/// # Errors
/// When not even a single row runs, with what its try has said.
pub(super) fn find(mut settings: Settings) -> Result<usize> {
    MemoryLimits::of(&settings.train.memory, &device_info()?)?.0.apply()?;
    let machine = Machine::here()?;
    let limit = machine.limit.map_or(u64::MAX, |limit| limit.bytes);
    let mut model = rng::scope(&rng::key(settings.train.seed)?, || settings.model.build())?;
    let data = settings.data.load()?.training;
    let mut estimator = Estimator::new(&mut model, Rows::of(&data.batch(&[0])?), machine);
    settings.train.gradient_checkpointing = estimator.resolve(&settings.train)?;
    let estimated = estimator.largest_batch(&settings.train, limit)?.unwrap_or(1);
    let too_much = (limit as f64 * MAX_OVER_LIMIT) as u64;
    let bound = estimator.largest_batch(&settings.train, too_much)?.unwrap_or(1).min(data.len());

    let failed = |error| Error::message(format!("cannot write the settings of a try: {error}"));
    let folder = TempDir::with_prefix("mlx-train-try-").map_err(failed)?;
    let config = folder.path().join("train.toml");
    fs::write(&config, settings.to_toml()?).map_err(failed)?;
    let mut refusal = String::new();
    let found = search(estimated, bound, |batch_size| {
        let (runs, said) = match attempt(&config, batch_size)? {
            Ok(Tried { peak_bytes, .. }) if peak_bytes > limit => {
                (false, format!("it needs {}", Bytes(peak_bytes)))
            }
            Ok(Tried { peak_bytes, seconds }) => {
                (true, format!("it runs in {}, {seconds:.2} s a step", Bytes(peak_bytes)))
            }
            Err(reason) => (false, reason),
        };
        _ = writeln!(stderr(), "batch size {batch_size}: {said}");
        refusal = said;
        Ok(runs)
    })?;
    found.ok_or_else(|| {
        Error::message(format!(
            "no batch runs within {}, not even a single row: {refusal}; make the model smaller, or set \
             train.gradient_checkpointing=full",
            Bytes(limit)
        ))
    })
}

/// The largest number up to `bound` for which `runs` is true, within a sixteenth of it, begun at `start`.
fn search(
    start: usize,
    bound: usize,
    mut runs: impl FnMut(usize) -> Result<bool>,
) -> Result<Option<usize>> {
    let (mut most, mut too_many) = (0, bound + 1);
    let mut next = start.clamp(1, bound.max(1));
    for _ in 0..MAX_TRIES {
        if runs(next)? {
            most = next;
        } else {
            too_many = next;
        }
        if too_many - most <= 1 + most / 16 {
            break;
        }
        // A little more than what runs, because the estimate was near; half the way where something failed.
        next = if most == next {
            (most + 1 + most / 8).min(too_many - 1)
        } else {
            usize::midpoint(most, too_many)
        };
    }
    Ok((most > 0).then_some(most))
}

/// Takes a few steps in another process; why it could not, in words.
fn attempt(config: &Path, batch_size: usize) -> Result<Result<Tried, String>> {
    let failed = |error: std::io::Error| {
        Error::message(format!("cannot start a process that tries a batch size: {error}"))
    };
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command.arg("train").arg("--config").arg(config);
    command.arg("--try-batch-size").arg(batch_size.to_string());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(failed)?;
    if !ends_in_time(&mut child) {
        child.kill().map_err(failed)?;
        child.wait().map_err(failed)?;
        return Ok(Err(format!(
            "{} minutes were not enough for {STEPS} steps",
            MAX_TIME.as_secs() / 60
        )));
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success()
        && let Ok(tried) = serde_json::from_slice(&output.stdout)
    {
        return Ok(Ok(tried));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find_map(|line| line.strip_prefix("error: "));
    // The system ends a process that takes its last memory without a word.
    Ok(
        Err(error
            .map_or_else(|| format!("the process ended with {}", output.status), str::to_owned)),
    )
}

fn ends_in_time(child: &mut Child) -> bool {
    let began = Instant::now();
    while began.elapsed() < MAX_TIME {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        sleep(LOOK);
    }
    false
}

/// What a process that tries a batch size does: a few steps on rows of the data.
pub(super) fn try_out(settings: &Settings, batch_size: usize) -> Result<Tried> {
    // Of all processes, the system is to end this one when memory runs out (Linux).
    _ = fs::write("/proc/self/oom_score_adj", "1000");
    let config = &settings.train;
    MemoryLimits::of(&config.memory, &device_info()?)?.0.apply()?;
    let data = settings.data.load()?.training;
    let mut model = rng::scope(&rng::key(config.seed)?, || settings.model.build())?;
    let batch = data.batch(&(0..batch_size).collect::<Vec<_>>())?;
    let optimizer = config.optimizer.build(&config.groups)?;
    let mut step = TrainStep::new(&mut model, optimizer, config.seed, config.step_options()?)?;
    Memory::reset_peak()?;
    let mut seconds = 0.0;
    for _ in 0..STEPS {
        let began = Instant::now();
        step.run((0..config.accumulation).map(|_| Ok(batch.clone())), 0.0)?;
        seconds = began.elapsed().as_secs_f64();
    }
    Ok(Tried { peak_bytes: Memory::now()?.peak_bytes, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_runs_is_found_in_few_tries_wherever_the_search_begins() -> Result<()> {
        for (largest, start, bound) in [
            (100, 100, 1000),
            (100, 120, 1000),
            (100, 80, 1000),
            (100, 100, 100),
            (1, 1, 1),
            (3, 1, 50),
        ] {
            let mut tries = 0;
            let found = search(start, bound, |number| {
                tries += 1;
                assert!((1..=bound).contains(&number), "{number}");
                Ok(number <= largest)
            })?;
            let found = found.expect("one row runs");
            assert!(
                found <= largest && largest - found <= 1 + largest / 16,
                "{found} of {largest}"
            );
            assert!(tries <= MAX_TRIES, "{tries}");
        }
        assert_eq!(search(40, 1000, |_| Ok(false))?, None);
        Ok(())
    }
}
