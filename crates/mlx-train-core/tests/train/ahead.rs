//! Runs whose steps are begun before the numbers of those before are read.

use super::*;

/// What is told of a run, without times: kinds, steps and the bits of losses.
fn told(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Step(report) => {
            let bits = [report.loss.to_bits(), report.grad_norm.to_bits()];
            format!("step {} of {} {bits:x?}", report.num_steps, report.step)
        }
        Event::Evaluated { step, evaluation, .. } => {
            format!("evaluated {step} {:x}", evaluation.loss.to_bits())
        }
        Event::Skipped(skipped) => format!("skipped {} {}", skipped.step, skipped.in_a_row),
        Event::Finished(finished) => {
            format!("finished {} {}", finished.step, finished.num_targets)
        }
        _ => return None,
    })
}

/// A run that skips, evaluates and saves at odd times: what it tells, which steps it saves, and its weights.
fn run(config: TrainConfig) -> Result<(Vec<String>, Vec<u64>, Vec<u8>)> {
    let folder = TempDir::new().unwrap();
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    model.dropout = Dropout::new(0.2)?;
    let held_out = waves(9)?;
    let (mut lines, mut saved) = (vec![], vec![]);
    Trainer::new(&mut model, config)?
        .evaluate_on(&held_out)
        .checkpoints(Checkpoints::create(folder.path().join("checkpoints"))?)
        .on_event(|event| {
            lines.extend(told(event));
            if let Event::CheckpointSaved { step, .. } = event {
                saved.push(*step);
            }
        })
        .run(Poisoned::new(10..13)?)?;
    let weights = model.parameter("first.weight");
    let bytes = weights.try_as_slice::<f32>()?.iter().flat_map(|it| it.to_le_bytes()).collect();
    Ok((lines, saved, bytes))
}

#[test]
fn a_run_ahead_tells_saves_and_learns_the_same() -> Result<()> {
    let checkpoint = CheckpointConfig { every_steps: 5, keep_last: 100, ..Default::default() };
    let base = TrainConfig {
        non_finite: NonFinite::Skip,
        log_every: 4,
        eval_every: 7,
        checkpoint,
        memory: not_estimated(),
        ..row_by_row(30)
    };
    let epochs = TrainConfig { epochs: Some(1), batch_size: 3, accumulation: 2, ..base.clone() };
    for config in [base, epochs] {
        let waits = run(TrainConfig { run_ahead: false, ..config.clone() })?;
        assert!(waits.0.iter().any(|line| line.starts_with("skipped")), "{waits:?}");
        assert!(waits.1.len() > 1, "{waits:?}");
        assert_eq!(run(TrainConfig { run_ahead: true, ..config })?, waits);
    }
    Ok(())
}

/// How many batches were made when each skipped step was told, less its number.
fn lead(config: TrainConfig) -> Result<Vec<u64>> {
    let mut model = Mlp::new(1, 1, Task::Regression)?;
    let data = Poisoned::new(10..13)?;
    let asked = Arc::clone(&data.asked);
    let mut leads = vec![];
    // An estimate and a sanity check ask for rows, too.
    let mut before = 0;
    Trainer::new(&mut model, TrainConfig { memory: not_estimated(), ..config })?
        .on_event(|event| match event {
            Event::Started(_) => before = asked.lock().unwrap().len() as u64,
            Event::Skipped(skipped) => {
                leads.push(asked.lock().unwrap().len() as u64 - before - skipped.step);
            }
            _ => {}
        })
        .run(data)?;
    Ok(leads)
}

#[test]
fn the_next_step_is_begun_before_the_numbers_of_one_are_read() -> Result<()> {
    let config = TrainConfig {
        non_finite: NonFinite::Skip,
        log_every: 1000,
        epochs: Some(1),
        ..row_by_row(1)
    };
    assert_eq!(lead(config.clone())?, [1, 1, 1]);
    assert_eq!(lead(TrainConfig { run_ahead: false, ..config.clone() })?, [0, 0, 0]);
    // Where each is reported, each is waited for.
    assert_eq!(lead(TrainConfig { log_every: 1, ..config.clone() })?, [0, 0, 0]);
    // Where the run may go back after a spike, what a step says decides what comes next.
    let spike = SpikeConfig { action: SpikeAction::Rollback, ..Default::default() };
    assert_eq!(lead(TrainConfig { spike, ..config })?, [0, 0, 0]);
    Ok(())
}

#[test]
fn what_is_wrong_with_the_next_step_is_told_after_this_one() -> Result<()> {
    /// Rows the first of which has no number, and the others of which cannot be read.
    #[derive(Debug)]
    struct Broken;
    impl Dataset for Broken {
        fn len(&self) -> usize {
            8
        }
        fn batch(&self, rows: &[usize]) -> Result<Batch> {
            if rows != [0] {
                return Err(Error::message("the disk is gone"));
            }
            Ok(Batch::new(Array::from_slice(&[f32::NAN], &[1, 1]), Array::zeros::<f32>(&[1, 1])?))
        }
    }
    for (non_finite, expected) in
        [(NonFinite::Stop, "step 1 has loss"), (NonFinite::Skip, "no batch could be made of row 1")]
    {
        let mut model = Mlp::new(1, 1, Task::Regression)?;
        let config =
            TrainConfig { non_finite, log_every: 1000, memory: not_estimated(), ..row_by_row(8) };
        let loader = DataLoader::new(
            Broken,
            LoaderOptions {
                batch_size: 1,
                order: Order::Sequential,
                num_workers: 0,
                ..LoaderOptions::default()
            },
        )?;
        let mut skipped = 0;
        let error = Trainer::new(&mut model, config)?
            .on_event(|event| skipped += u32::from(matches!(event, Event::Skipped(_))))
            .run_loader(loader)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(skipped, u32::from(non_finite == NonFinite::Skip));
    }
    Ok(())
}
