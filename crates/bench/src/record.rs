//! A run on one line of JSON: what was measured, on what, and the figures.

use crate::timing::Quantiles;
use mlx_train::{Error, Result, run::Environment};
use serde::Serialize;
use serde_json::Value;
use std::{
    env,
    io::{Write, stdout},
};

/// The commit that this program was built from, as `cargo xtask bench` says.
const COMMIT: &str = match option_env!("MLX_TRAIN_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What was measured, and the figures.
#[derive(Debug, Serialize)]
pub struct Record {
    /// The benchmark.
    pub benchmark: &'static str,
    /// Whose code ran: `mlx-train`, or that which it is compared with.
    pub framework: &'static str,
    /// What it worked on.
    pub model: &'static str,
    /// The sizes of that.
    pub shapes: Value,
    /// In which type it computes.
    pub dtype: &'static str,
    /// Whether the step is compiled.
    pub compiled: bool,
    /// Seconds of one step, or of whatever is repeated.
    pub seconds: Quantiles,
    /// Seconds of the very first one.
    pub first_seconds: f64,
    /// Tokens in a second, of the median step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The most that MLX held for it.
    pub peak_bytes: u64,
    /// Figures that this benchmark alone has.
    #[serde(flatten)]
    pub further: Value,
}

impl Record {
    /// Prints the line, with what is known of the machine.
    pub fn print(&self) -> Result<()> {
        let here = Environment::here();
        let machine = Machine {
            version: here.mlx_train,
            commit: COMMIT,
            mlx: here.mlx,
            system: here.system,
            backend: here.backend,
            device: here.device,
            cpu: here.cpu,
            threads: here.num_threads,
            blas_threads: env::var("OPENBLAS_NUM_THREADS").ok(),
        };
        let line = serde_json::to_string(&Line { record: self, machine });
        let line = line.map_err(|error| Error::message(format!("a record is no JSON: {error}")))?;
        let written = writeln!(stdout(), "{line}");
        written.map_err(|error| Error::message(format!("cannot write the output: {error}")))
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    record: &'a Record,
    #[serde(flatten)]
    machine: Machine,
}

/// What figures depend on besides the code.
#[derive(Serialize)]
struct Machine {
    version: String,
    commit: &'static str,
    mlx: String,
    system: String,
    backend: String,
    device: String,
    cpu: String,
    threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    blas_threads: Option<String>,
}
