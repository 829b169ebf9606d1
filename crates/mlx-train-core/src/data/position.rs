//! How far a run has come through its data, in a form that a file can hold.

use super::{DataError, Remainder, Sampler};
use crate::Result;
use serde::{Deserialize, Serialize};

/// What a [`super::DataLoader`] has handed out, and in which order it reads: see
/// [`super::DataLoader::resume_at`].
///
/// It is small whatever the data's size, and the same for every rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// How many rows each rank was handed since the start of the first epoch.
    rows_taken: u64,
    /// How many rows the data has.
    num_rows: usize,
    /// In which order they come.
    order: String,
    /// What decides that order; nothing does in a sequential one.
    seed: Option<u64>,
    /// How many processes share the rows.
    world_size: usize,
    /// Whether the rows that they cannot share equally are repeated.
    remainder_repeats: bool,
}

/// No run gets here, and sums of positions stay below 2^64.
const LARGEST: u64 = 1 << 62;

impl Position {
    pub(super) fn new(sampler: &Sampler, rows_taken: u64) -> Self {
        Self {
            rows_taken,
            num_rows: sampler.num_rows(),
            order: sampler.order_name().to_owned(),
            seed: sampler.order().is_random().then(|| sampler.seed()),
            world_size: sampler.world_size(),
            remainder_repeats: sampler.remainder() == Remainder::Repeat,
        }
    }

    /// How many rows each rank was handed since the start of the first epoch.
    pub fn rows_taken(&self) -> u64 {
        self.rows_taken
    }

    /// The number of rows taken, when the position is one of this sampler's.
    ///
    /// # Errors
    /// [`DataError::Position`], which lists everything that differs.
    pub(super) fn within(&self, sampler: &Sampler) -> Result<u64> {
        let here = Self::new(sampler, self.rows_taken);
        let seed =
            |seed: Option<u64>| seed.map_or_else(|| "none".to_owned(), |seed| seed.to_string());
        let fields = [
            ("rows", self.num_rows.to_string(), here.num_rows.to_string()),
            ("order", self.order.clone(), here.order.clone()),
            ("seed", seed(self.seed), seed(here.seed)),
            ("world size", self.world_size.to_string(), here.world_size.to_string()),
            ("remainder", remainder(self), remainder(&here)),
        ];
        let differs = |(name, saved, here): (&str, String, String)| {
            (saved != here).then(|| format!("{name}: {saved} when it was saved, {here} now"))
        };
        let mut problems: Vec<String> = fields.into_iter().filter_map(differs).collect();
        if self.rows_taken > LARGEST {
            problems.push(format!("rows taken: {}, more than any run takes", self.rows_taken));
        }
        if problems.is_empty() {
            return Ok(self.rows_taken);
        }
        Err(DataError::Position { differences: problems.join("; ") }.into())
    }
}

fn remainder(position: &Position) -> String {
    if position.remainder_repeats { "repeated" } else { "dropped" }.to_owned()
}
