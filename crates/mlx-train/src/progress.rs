//! What a person sees while a model trains: a bar on a terminal, plain lines elsewhere.

use crate::{
    clock::duration,
    profile::{Bytes, Memory},
    run::Entry,
    train::{Event, StepReport},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::Cell,
    io::{IsTerminal, Write, stderr},
};

/// Shows a training run on standard error.
///
/// ```no_run
/// # use mlx_train::{prelude::*, data::Dataset, progress::Progress, train::{TrainConfig, Trainer}};
/// # fn example(mut model: Box<dyn BaseModel>, data: impl Dataset + 'static) -> Result<()> {
/// let progress = Progress::new("bytes");
/// Trainer::new(&mut model, TrainConfig::default())?.on_event(|event| progress.show(event)).run(data)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    unit: String,
    /// How many steps were taken before this process; they say nothing about the time that is left.
    first_step: Cell<u64>,
}

impl Progress {
    /// A display that counts targets in `unit`s, such as "images" or "bytes".
    pub fn new(unit: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        // The template is a constant, so its error would be ours; the default style also works.
        let template = "{bar:20} {pos}/{len}  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        Self { bar, unit: unit.into(), first_step: Cell::new(0) }
    }

    /// Shows what happened.
    pub fn show(&self, event: &Event<'_>) {
        if let Event::Finished(_) = event {
            self.close();
        }
        if let Some(Entry { kind, step, text, .. }) = Entry::of(event) {
            let step = step.map(|step| format!("step {step:>6}  ")).unwrap_or_default();
            let what = if text.is_empty() {
                kind.name().into()
            } else {
                format!("{}: {text}", kind.name())
            };
            self.line(&format!("{step}{what}"));
        }
        match event {
            Event::Started(started) => {
                self.bar.set_length(started.steps);
                self.first_step.set(0);
                if stderr().is_terminal() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            }
            Event::Resumed { step, .. } => {
                self.first_step.set(*step);
                self.bar.set_position(*step);
            }
            Event::RolledBack { to, .. } => self.bar.set_position(*to),
            Event::Step(report) => {
                let numbers = self.numbers(report);
                if self.bar.is_hidden() {
                    let StepReport { step, steps, .. } = report;
                    self.line(&format!("step {step:>6}/{steps}  {numbers}"));
                }
                self.bar.set_message(numbers);
                self.bar.set_position(report.step);
            }
            Event::Evaluated { step, evaluation, .. } => {
                let mut line = format!("step {step:>6}  held-out loss {:.4}", evaluation.loss);
                for (name, value) in &evaluation.metrics {
                    line = format!("{line}  {name} {value:.4}");
                }
                self.line(&line);
            }
            _ => {}
        }
    }

    /// Takes the bar away, as at the end of a run; lines stay.
    pub fn close(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Shows a line above the bar, or by itself where there is none.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| {
            // Nobody is left to tell when standard error is closed.
            _ = writeln!(stderr(), "{text}");
        });
    }

    fn numbers(&self, report: &StepReport) -> String {
        let StepReport { loss, learning_rate, tokens_per_second, memory, .. } = report;
        let Memory { peak_bytes, .. } = memory;
        let (peak, unit) = (Bytes(*peak_bytes), &self.unit);
        let rate = grouped(*tokens_per_second as u64);
        let left = match self.seconds_left(report) {
            Some(seconds) => format!("  {} left", duration(seconds)),
            None => String::new(),
        };
        format!("loss {loss:.4}  lr {learning_rate:.2e}  {rate} {unit}/s  peak {peak}{left}")
    }

    /// The time that is left if steps go on to take as long as those of this process did.
    fn seconds_left(&self, report: &StepReport) -> Option<f64> {
        let left = report.steps.checked_sub(report.step).filter(|left| *left > 0)?;
        let done = report.step.checked_sub(self.first_step.get()).filter(|done| *done > 0)?;
        Some(report.elapsed_seconds / done as f64 * left as f64)
    }
}

/// A count with its thousands apart: `1 234 567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::StepSeconds;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn the_time_that_is_left_follows_from_the_steps_of_this_process_alone() {
        let memory = Memory { peak_bytes: 1 << 20, ..Memory::default() };
        let report = StepReport {
            step: 60,
            steps: 100,
            epochs: 1.0,
            num_steps: 10,
            num_targets: 10.0,
            loss: 2.0,
            learning_rate: 3e-4,
            grad_norm: 1.0,
            tokens_per_second: 12_345.0,
            seconds: StepSeconds::default(),
            num_skipped: 0,
            num_traces: 1,
            elapsed_seconds: 20.0,
            memory,
        };
        let progress = Progress::new("bytes");
        progress.show(&Event::Resumed { step: 50, checkpoint: std::path::Path::new("c") });
        assert_eq!(
            progress.numbers(&report),
            "loss 2.0000  lr 3.00e-4  12 345 bytes/s  peak 1.0 MiB  1 min 20 s left"
        );
        let last = StepReport { step: 100, ..report };
        assert_eq!(progress.seconds_left(&last), None);
    }
}
