//! `schedule`: the learning rate of a run, as numbers and as a picture.

use super::{
    Failure::{self, Failed, Refused},
    args::ScheduleArgs,
    models::print_json,
};
use crate::{
    Error, Result,
    chart::{Chart, ChartError},
    config::{Document, ModelConfig},
    optim::Schedule,
    train::TrainConfig,
};
use serde_json::json;
use std::{collections::BTreeSet, io::Write};

/// How many points of a curve are drawn; a picture has fewer columns.
const POINTS_DRAWN: u64 = 2000;
/// How many boundaries a table shows, and how many steps from one to the next.
const BOUNDARIES_SHOWN: usize = 8;
const STEPS_BETWEEN: u64 = 4;

pub(super) fn run(args: &ScheduleArgs, out: &mut impl Write) -> Result<(), Failure> {
    let planned = Planned::new(args).map_err(Refused)?;
    if let Some(path) = &args.plot {
        planned.chart().save(path).map_err(|error| match error {
            Error::Chart(ChartError::Format(_)) => Refused(error),
            error => Failed(error),
        })?;
    }
    if args.json {
        return print_json(&planned.to_json(), out);
    }
    writeln!(out, "{:>10}  learning rate", "step")?;
    for (step, rate, is_boundary) in planned.rows() {
        let mark = if is_boundary { "  |" } else { "" };
        writeln!(out, "{step:>10}  {rate:.4e}{mark}")?;
    }
    Ok(())
}

/// The learning rates of a run of so many steps.
struct Planned {
    schedule: Schedule,
    num_steps: u64,
    boundaries: Vec<u64>,
}

impl Planned {
    /// Reads the `[train]` section; no model is needed, and no data but their number of rows.
    fn new(args: &ScheduleArgs) -> Result<Self> {
        let mut document =
            args.config.as_ref().map(Document::load).transpose()?.unwrap_or_default();
        for set in &args.set {
            document.set(set)?;
        }
        document.expect_sections(&["model", "train", "data"])?;
        let train = TrainConfig::from_document(&document.section("train").unwrap_or_default())?;
        let num_steps = match (train.epochs, args.rows) {
            (Some(epochs), None) => {
                return Err(Error::message(format!(
                    "train.epochs is {epochs}, and how many steps these are depends on the data; say \
                     --rows NUMBER, or --set train.epochs=null for the steps of train.steps"
                )));
            }
            (_, num_rows) => train.total_steps(num_rows.unwrap_or(0)),
        };
        let schedule = train.learning_rates(num_steps)?;
        let boundaries = schedule.boundaries(num_steps);
        Ok(Self { schedule, num_steps, boundaries })
    }

    /// The steps to show with their rates, and whether another curve begins there.
    fn rows(&self) -> impl Iterator<Item = (u64, f64, bool)> {
        let last = self.num_steps.saturating_sub(1);
        let mut corners = BTreeSet::from([0, last]);
        for boundary in evenly(&self.boundaries) {
            // The step before tells whether the rate jumps.
            corners.extend([boundary - 1, boundary]);
        }
        let mut steps = corners.clone();
        for (&from, &to) in corners.iter().zip(corners.iter().skip(1)) {
            steps.extend((1..STEPS_BETWEEN).map(|part| between(from, to, part, STEPS_BETWEEN)));
        }
        steps
            .into_iter()
            .map(|step| (step, self.schedule.at(step), self.boundaries.contains(&step)))
    }

    fn to_json(&self) -> serde_json::Value {
        let points =
            self.rows().map(|(step, rate, _)| json!({ "step": step, "learning_rate": rate }));
        json!({
            "steps": self.num_steps,
            "boundaries": self.boundaries,
            "points": points.collect::<Vec<_>>(),
        })
    }

    fn chart(&self) -> Chart {
        let last = self.num_steps.saturating_sub(1);
        let mut steps: BTreeSet<u64> =
            (0..=POINTS_DRAWN).map(|part| between(0, last, part, POINTS_DRAWN)).collect();
        // A jump is drawn between two steps, however many there are.
        steps.extend(self.boundaries.iter().flat_map(|&boundary| [boundary - 1, boundary]));
        let points = steps.into_iter().map(|step| (step as f64, self.schedule.at(step)));
        // No legend: it would cover a plateau, and there is one line alone.
        Chart::new("Learning rate").axes("step", "learning rate").line("", points)
    }
}

/// Some of many boundaries, the first and the last among them.
fn evenly(boundaries: &[u64]) -> Vec<u64> {
    let Some(last) = boundaries.len().checked_sub(1).filter(|&last| last >= BOUNDARIES_SHOWN)
    else {
        return boundaries.to_vec();
    };
    (0..BOUNDARIES_SHOWN).map(|part| boundaries[last * part / (BOUNDARIES_SHOWN - 1)]).collect()
}

/// The step that is `part` of `parts` on the way.
fn between(from: u64, to: u64, part: u64, parts: u64) -> u64 {
    let way = u128::from(to - from) * u128::from(part) / u128::from(parts);
    // Not more than the way, so it fits.
    from + way as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(set: &[&str]) -> Result<Planned> {
        let set = set.iter().map(|&set| set.to_owned()).collect();
        Planned::new(&ScheduleArgs { config: None, set, rows: None, plot: None, json: false })
    }

    fn steps(set: &[&str]) -> Result<Vec<u64>> {
        Ok(planned(set)?.rows().map(|(step, ..)| step).collect())
    }

    #[test]
    fn boundaries_are_shown_with_the_step_before_and_a_few_between() -> Result<()> {
        let shown = steps(&["train.steps=101", "train.warmup_steps=10"])?;
        assert_eq!(shown, [0, 2, 4, 6, 9, 10, 32, 55, 77, 100]);
        assert_eq!(steps(&["train.steps=2"])?, [0, 1]);
        assert_eq!(steps(&["train.steps=1"])?, [0]);
        Ok(())
    }

    #[test]
    fn a_staircase_of_many_stairs_has_a_short_table() -> Result<()> {
        let staircase = ["train.steps=18446744073709551615", "train.schedule.kind=step"];
        let shown = steps(&[&staircase[..], &["train.schedule.every=1"]].concat())?;
        assert!(shown.len() < 60, "{}", shown.len());
        assert_eq!(shown.last(), Some(&(u64::MAX - 1)));
        Ok(())
    }
}
