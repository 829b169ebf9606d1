//! What a person sees while a model trains: a bar on a terminal, plain lines elsewhere.

use crate::{
    profile::{Bytes, Memory},
    train::{Event, StepReport},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};

/// Shows a training run on standard error.
///
/// ```no_run
/// # use mlx_train::{prelude::*, data::Dataset, progress::Progress, train::{TrainConfig, Trainer}};
/// # fn example(mut model: Box<dyn BaseModel>, data: impl Dataset) -> Result<()> {
/// let progress = Progress::new("bytes");
/// Trainer::new(&mut model, TrainConfig::default())?.on_event(|event| progress.show(event)).run(data)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    unit: &'static str,
}

impl Progress {
    /// A display that counts targets in `unit`s, such as "images" or "bytes".
    pub fn new(unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        // The template is a constant, so its error would be ours; the default style also works.
        let template = "{bar:24} {pos}/{len}  {msg}  {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        Self { bar, unit }
    }

    /// Shows what happened.
    pub fn show(&self, event: &Event<'_>) {
        match event {
            Event::Started(started) => {
                self.bar.set_length(started.steps);
                self.line(&format!(
                    "training {} of {} parameters on {} rows for {} steps",
                    grouped(started.num_trainable),
                    grouped(started.num_parameters),
                    grouped(started.num_rows as u64),
                    grouped(started.steps),
                ));
                if stderr().is_terminal() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            }
            Event::Step(report) => {
                self.bar.set_message(self.numbers(report));
                self.bar.set_position(report.step);
                if self.bar.is_hidden() {
                    let StepReport { step, steps, .. } = report;
                    self.line(&format!("step {step:>6}/{steps}  {}", self.numbers(report)));
                }
            }
            Event::Evaluated { step, evaluation, .. } => {
                let mut line = format!("step {step:>6}  held-out loss {:.4}", evaluation.loss);
                for (name, value) in &evaluation.metrics {
                    line = format!("{line}  {name} {value:.4}");
                }
                self.line(&line);
            }
            Event::Finished(_) => self.bar.finish_and_clear(),
            _ => {}
        }
    }

    fn numbers(&self, report: &StepReport) -> String {
        let StepReport { loss, tokens_per_second, memory, .. } = report;
        let Memory { peak_bytes, .. } = memory;
        let peak = Bytes(*peak_bytes);
        let rate = grouped(*tokens_per_second as u64);
        format!("loss {loss:.4}  {rate} {}/s  peak {peak}", self.unit)
    }

    /// A line above the bar, or by itself where there is none.
    fn line(&self, text: &str) {
        self.bar.suspend(|| {
            // Nobody is left to tell when standard error is closed.
            _ = writeln!(stderr(), "{text}");
        });
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
    use super::grouped;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }
}
