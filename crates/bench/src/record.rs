//! A run on one line of JSON: what was measured, on what, and the figures.

use crate::timing::Quantiles;
use mlx_train::{Error, Result, run::Environment};
use serde::Serialize;
use serde_json::Value;
use std::{
    env, fs,
    io::{Write, stdout},
};

/// The commit that this program was built from, as `cargo xtask bench` says.
const COMMIT: &str = match option_env!("MLX_TRAIN_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Prints what was found on one line of JSON.
///
/// # Errors
/// When it cannot be written.
pub fn print_line(line: &Value) -> Result<()> {
    let written = writeln!(stdout(), "{line}");
    written.map_err(|error| Error::message(format!("cannot write the output: {error}")))
}

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
    ///
    /// # Errors
    /// When nobody reads the output any more.
    pub fn print(&self) -> Result<()> {
        self.print_of(Framework::this())
    }

    /// As [`Record::print`], of a framework that has run in a process of its own.
    ///
    /// # Errors
    /// As [`Record::print`].
    pub fn print_of(&self, framework: Framework) -> Result<()> {
        print_line(&self.line(framework)?)
    }

    /// Everything of the line. What the benchmark says for itself counts before what is said for all.
    fn line(&self, framework: Framework) -> Result<Value> {
        let here = Environment::here();
        let machine = Machine {
            framework,
            policy: "none",
            commit: COMMIT,
            mlx_train: here.mlx_train,
            mlx: here.mlx,
            system: here.system,
            cpu: here.cpu,
            blas_threads: env::var("OPENBLAS_NUM_THREADS").ok(),
        };
        let no_json = |error| Error::message(format!("a record is no JSON: {error}"));
        let mut line = serde_json::to_value(self).map_err(no_json)?;
        if self.peak_bytes == 0 {
            // Who does not count them holds some all the same.
            line["peak_bytes"] = Value::Null;
        }
        let machine = serde_json::to_value(machine).map_err(no_json)?;
        if let (Some(line), Value::Object(machine)) = (line.as_object_mut(), machine) {
            for (name, value) in machine {
                line.entry(name).or_insert(value);
            }
        }
        Ok(line)
    }
}

/// Who computes, and on what.
#[derive(Debug, Clone, Serialize)]
pub struct Framework {
    /// Its version.
    pub version: String,
    /// The part of it that computes, such as `CPU` or `CUDA`.
    pub backend: String,
    /// What that computes on.
    pub device: String,
    /// How many threads it may run.
    pub threads: usize,
    /// The most that its process had in memory, if the system says so.
    pub resident_peak_bytes: Option<u64>,
}

impl Framework {
    /// This process.
    pub fn this() -> Self {
        let here = Environment::here();
        Self {
            version: here.mlx_train,
            backend: here.backend,
            device: here.device,
            threads: here.num_threads,
            resident_peak_bytes: resident_peak_bytes(),
        }
    }
}

/// The most that this process had in memory (Linux).
pub fn resident_peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// What figures depend on besides.
#[derive(Serialize)]
struct Machine {
    #[serde(flatten)]
    framework: Framework,
    /// Of gradient checkpointing.
    policy: &'static str,
    commit: &'static str,
    mlx_train: String,
    mlx: String,
    system: String,
    cpu: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    blas_threads: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(further: Value) -> Record {
        Record {
            benchmark: "training",
            framework: "mlx-train",
            model: "gpt-s",
            shapes: json!({ "batch_size": 8 }),
            dtype: "float32",
            compiled: false,
            seconds: Quantiles::of(vec![0.5]),
            first_seconds: 1.0,
            tokens_per_second: Some(4096.0),
            peak_bytes: 1 << 20,
            further,
        }
    }

    #[test]
    fn a_line_has_everything_that_its_figures_depend_on() -> Result<()> {
        let line = record(json!({ "loss": 2.5 })).line(Framework::this())?;
        for name in [
            "framework",
            "version",
            "commit",
            "model",
            "shapes",
            "dtype",
            "policy",
            "backend",
            "device",
            "threads",
            "tokens_per_second",
            "seconds",
            "first_seconds",
            "peak_bytes",
            "resident_peak_bytes",
            "loss",
        ] {
            assert!(line.get(name).is_some(), "{name} is not in {line}");
        }
        Ok(())
    }

    #[test]
    fn what_a_benchmark_says_counts_before_what_is_said_for_all() -> Result<()> {
        let line = record(json!({ "policy": "full" })).line(Framework::this())?;
        assert_eq!(line["policy"], "full");
        assert_eq!(line.to_string().matches("\"policy\"").count(), 1, "{line}");
        Ok(())
    }
}
