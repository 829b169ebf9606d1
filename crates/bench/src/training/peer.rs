//! How the process of a framework is started.

use super::Task;
use mlx_train::{Error, Result, run::Environment};
use serde_json::json;
use std::{
    env,
    process::{Command, Stdio},
};

/// A framework whose steps are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// This crate's engine.
    This,
    /// MLX by its Python package, with the library that this program has.
    PythonMlx,
    PyTorch,
    Burn,
    Candle,
}

impl Peer {
    /// All but this one.
    pub const OTHERS: [Self; 4] = [Self::PythonMlx, Self::PyTorch, Self::Burn, Self::Candle];

    pub fn name(self) -> &'static str {
        match self {
            Self::This => "mlx-train",
            Self::PythonMlx => "Python MLX",
            Self::PyTorch => "PyTorch",
            Self::Burn => "burn",
            Self::Candle => "candle",
        }
    }

    /// The part of it that computes on `device`.
    pub fn backend(self, device: &str) -> String {
        match self {
            Self::This | Self::PythonMlx => Environment::here().backend,
            Self::PyTorch if device != "CPU" => "CUDA".into(),
            Self::PyTorch | Self::Candle => "CPU".into(),
            Self::Burn => "flex".into(),
        }
    }

    /// Whether it has a mode in which steps are compiled.
    pub fn compiles(self) -> bool {
        matches!(self, Self::This | Self::PythonMlx | Self::PyTorch)
    }

    /// Whether it returns from a step while the device computes: the others wait in each operation.
    pub fn runs_ahead(self) -> bool {
        matches!(self, Self::This | Self::PythonMlx | Self::PyTorch)
    }

    /// The variable that names its program: a Python with the package, or a binary.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::This => None,
            Self::PythonMlx => Some("MLX_TRAIN_PYTHON"),
            Self::PyTorch => Some("MLX_TRAIN_BENCH_PYTORCH"),
            Self::Burn => Some("MLX_TRAIN_BENCH_BURN"),
            Self::Candle => Some("MLX_TRAIN_BENCH_CANDLE"),
        }
    }

    /// What Python runs, for those that are in Python.
    fn script(self) -> Option<&'static str> {
        match self {
            Self::PythonMlx => Some(concat!(
                include_str!("../../peers/serve.py"),
                "\n",
                include_str!("../../peers/python_mlx.py")
            )),
            Self::PyTorch => Some(concat!(
                include_str!("../../peers/serve.py"),
                "\n",
                include_str!("../../peers/pytorch.py")
            )),
            Self::This | Self::Burn | Self::Candle => None,
        }
    }

    /// The process that takes steps of a task.
    ///
    /// # Errors
    /// When the framework is not there.
    pub fn command(self, task: Task) -> Result<Command> {
        let text = match self {
            Self::This => json!(task),
            _ => json!({
                "sizes": task.work.sizes(),
                "dtype": task.work.dtype(),
                "max_grad_norm": task.work.max_grad_norm(),
                "compile": task.compile,
                "ahead": task.ahead,
            }),
        };
        let mut command = match self.variable() {
            None => {
                let this = env::current_exe().map_err(|error| {
                    Error::message(format!("this program cannot be found: {error}"))
                })?;
                let mut command = Command::new(this);
                command.arg("--worker");
                command
            }
            Some(variable) => Command::new(env::var_os(variable).ok_or_else(|| {
                Error::message(format!(
                    "{variable} is not set; `cargo xtask bench --peers` sets it"
                ))
            })?),
        };
        if let Some(script) = self.script() {
            command.args(["-c", script]);
        }
        command.arg(text.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command)
    }
}
