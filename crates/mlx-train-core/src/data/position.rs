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
    /// What becomes of the rows that several cannot share equally.
    remainder: Option<Remainder>,
}

/// No run gets here, and sums of positions stay below 2^64.
const LARGEST: u64 = 1 << 62;

impl Position {
    pub(super) fn new(sampler: &Sampler, rows_taken: u64) -> Self {
        let (order, seed) = sampler.order();
        Self {
            rows_taken,
            num_rows: sampler.num_rows(),
            order: order.to_owned(),
            seed,
            world_size: sampler.world_size(),
            remainder: (sampler.world_size() > 1).then(|| sampler.remainder()),
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
        let fields = [
            ("rows", self.num_rows.to_string(), here.num_rows.to_string()),
            ("order", self.order.clone(), here.order.clone()),
            ("seed", or_none(self.seed), or_none(here.seed)),
            ("world size", self.world_size.to_string(), here.world_size.to_string()),
            ("remainder", or_none(self.remainder), or_none(here.remainder)),
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

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}
