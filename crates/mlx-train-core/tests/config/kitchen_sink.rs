//! A config with fields of every kind.

use mlx_train_core::config::{ModelConfig, Preset};
use std::path::PathBuf;

/// A config with fields of every kind.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = even_heads, presets = presets)]
pub struct SinkConfig {
    /// Width of the residual stream.
    #[config(default = 768, range = 1..)]
    pub hidden_size: i32,
    #[config(default = 12, range = 1..=1024)]
    pub num_heads: usize,
    #[config(default = 0.1, range = 0.0..1.0)]
    pub dropout: f32,
    #[config(default = 18_446_744_073_709_551_615)]
    pub seed: u64,
    #[config(default = -9_223_372_036_854_775_808)]
    pub offset: i64,
    #[config(default = 7)]
    pub workers: u32,
    #[config(default = 1)]
    pub scale: f64,
    pub tied: bool,
    /// A "name",
    /// on two lines.
    #[config(default = "it's a \"name\"")]
    pub name: String,
    #[config(default = "data/train.bin")]
    pub data: PathBuf,
    #[config(range = 1..)]
    pub window: Option<i64>,
    #[config(default = 1.5)]
    pub clip: Option<f32>,
    #[config(rename = "label")]
    pub tag: Option<String>,
    #[config(default = [1, 2, 4], range = 1..)]
    pub widths: Vec<usize>,
    #[config(default = ["a", "b"])]
    pub names: Vec<String>,
    #[config(default = [0.9, 0.95], range = 0.0..1.0)]
    pub betas: [f32; 2],
    #[config(default = Activation::Silu)]
    pub activation: Activation,
    pub norm: Norm,
    #[config(default = Schedule::Cosine { warmup: 10, floor: None })]
    pub schedule: Schedule,
    /// How it learns.
    #[config(default = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() })]
    pub optimizer: OptimizerConfig,
    pub teacher: Option<OptimizerConfig>,
    pub stages: Vec<Stage>,
}

/// How weights move.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
#[config(validate = OptimizerConfig::check)]
pub struct OptimizerConfig {
    /// The step, per unit of gradient.
    #[config(default = 1e-3, range = 0.0..)]
    pub learning_rate: f64,
    #[config(default = [0.9, 0.999])]
    pub betas: Vec<f64>,
    pub schedule: Schedule,
}

impl OptimizerConfig {
    fn check(&self) -> Result<(), &'static str> {
        if self.betas.len() == 2 { Ok(()) } else { Err("betas has to hold two numbers") }
    }
}

/// What a block applies.
#[derive(Debug, Clone, Copy, PartialEq, ModelConfig)]
pub enum Activation {
    Relu,
    Silu,
    /// With the approximation by tanh.
    GeluTanh,
    #[config(rename = "none")]
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, ModelConfig)]
pub enum Norm {
    #[default]
    RMSNorm,
    LayerNorm,
}

/// The learning rate over time.
#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub enum Schedule {
    #[config(default)]
    Constant,
    /// Falls as a cosine.
    Cosine {
        /// Steps.
        #[config(default = 100, range = 0..)]
        warmup: i64,
        #[config(range = 0.0..)]
        floor: Option<f64>,
    },
    Step {
        #[config(default = [10, 20])]
        at: Vec<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, ModelConfig)]
pub struct Stage {
    #[config(default = 1, range = 1..)]
    pub depth: u32,
    #[config(default = 0.5)]
    pub ratio: Option<f32>,
    #[config(default = "x")]
    pub name: String,
}

fn even_heads(config: &SinkConfig) -> Result<(), String> {
    match config.hidden_size.checked_rem(config.num_heads as i32) {
        Some(0) => Ok(()),
        _ => Err(format!(
            "num_heads ({}) must divide hidden_size ({})",
            config.num_heads, config.hidden_size
        )),
    }
}

fn presets() -> Vec<Preset<SinkConfig>> {
    let tiny = SinkConfig { hidden_size: 64, num_heads: 4, ..SinkConfig::default() };
    let large = SinkConfig { hidden_size: 4096, num_heads: 32, ..SinkConfig::default() };
    vec![Preset::new("tiny", tiny), Preset::new("large", large)]
}
