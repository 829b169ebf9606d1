//! What is trained, the same for every framework.

use clap::ValueEnum;
use mlx_train::{
    Array, Result,
    data::Batch,
    ffi,
    model::{BaseModel, FromConfig},
    models::{
        mlp::{Mlp, MlpConfig},
        transformer::{Transformer, TransformerConfig},
    },
    optim::Clip,
    rng,
    train::{CompileMode, Precision, StepOptions},
};
use serde::{Deserialize, Serialize};

/// How many batches take turns.
const NUM_BATCHES: i32 = 4;

/// A model and its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A GPT of 4.2 million parameters in f32
    GptS,
    /// An MLP of 1.9 million parameters in f32
    MlpS,
    /// A GPT of the size of GPT-2 small, in bf16 from f32 weights; for a GPU
    #[value(name = "gpt2-124m")]
    #[serde(rename = "gpt2-124m")]
    Gpt2Small,
}

/// The sizes of a model and of its batches: what every framework is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Sizes {
    /// Blocks of causal attention with rotary positions and `SwiGLU`, each behind an `RMSNorm`; tied embeddings.
    Gpt {
        vocab_size: i32,
        hidden_size: i32,
        num_layers: usize,
        num_heads: i32,
        intermediate_size: i32,
        seq_len: i32,
        batch_size: i32,
    },
    /// Linear layers with biases, `ReLU` between them.
    Mlp { input_size: i32, hidden_sizes: [i32; 2], output_size: i32, batch_size: i32 },
}

impl Work {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::GptS => "gpt-s",
            Self::MlpS => "mlp-s",
            Self::Gpt2Small => "gpt2-124m",
        }
    }

    pub fn sizes(self) -> Sizes {
        match self {
            Self::GptS => Sizes::Gpt {
                vocab_size: 4096,
                hidden_size: 256,
                num_layers: 4,
                num_heads: 4,
                intermediate_size: 688,
                seq_len: 256,
                batch_size: 8,
            },
            Self::MlpS => Sizes::Mlp {
                input_size: 784,
                hidden_sizes: [1024, 1024],
                output_size: 10,
                batch_size: 256,
            },
            Self::Gpt2Small => Sizes::Gpt {
                vocab_size: 50304,
                hidden_size: 768,
                num_layers: 12,
                num_heads: 12,
                intermediate_size: 2048,
                seq_len: 1024,
                batch_size: 16,
            },
        }
    }

    /// What it computes in; weights and the state of the optimizer are f32.
    pub fn precision(self) -> Precision {
        match self {
            Self::GptS | Self::MlpS => Precision::F32,
            Self::Gpt2Small => Precision::Mixed,
        }
    }

    /// The same in words of other frameworks.
    pub fn dtype(self) -> &'static str {
        match self {
            Self::GptS | Self::MlpS => "float32",
            Self::Gpt2Small => "bfloat16",
        }
    }

    /// The largest norm of gradients; only the GPTs have one.
    pub fn max_grad_norm(self) -> Option<f64> {
        (self != Self::MlpS).then_some(1.0)
    }

    /// How a step of it computes.
    pub fn step_options(self, compile: bool) -> Result<StepOptions> {
        let mut clip = Clip::default();
        if let Some(norm) = self.max_grad_norm() {
            clip = clip.global_norm(norm)?;
        }
        let compile = if compile { CompileMode::On } else { CompileMode::Off };
        Ok(StepOptions { clip, compile, precision: self.precision(), ..StepOptions::default() })
    }

    /// The model, with weights that are the same every time.
    pub fn model(self) -> Result<Box<dyn BaseModel>> {
        rng::scope(&rng::key(0)?, || self.sizes().model())
    }
}

impl Sizes {
    /// Tokens of a step, or rows where there are none.
    pub fn num_items(&self) -> i32 {
        match *self {
            Self::Gpt { seq_len, batch_size, .. } => seq_len * batch_size,
            Self::Mlp { batch_size, .. } => batch_size,
        }
    }

    fn model(self) -> Result<Box<dyn BaseModel>> {
        Ok(match self {
            Self::Gpt {
                vocab_size,
                hidden_size,
                num_layers,
                num_heads,
                intermediate_size,
                seq_len,
                ..
            } => Box::new(Transformer::from_config(&TransformerConfig {
                vocab_size,
                hidden_size,
                num_layers,
                num_heads,
                intermediate_size: Some(intermediate_size),
                max_seq_len: seq_len,
                dropout: 0.0,
                tie_word_embeddings: true,
                ..TransformerConfig::default()
            })?),
            Self::Mlp { input_size, hidden_sizes, output_size, .. } => {
                Box::new(Mlp::from_config(&MlpConfig {
                    input_size,
                    hidden_sizes: hidden_sizes.to_vec(),
                    output_size,
                    ..MlpConfig::default()
                })?)
            }
        })
    }

    /// Batches that take turns: each token comes after the one before it by the row's own stride.
    pub fn batches(&self) -> Result<Vec<Batch>> {
        (0..NUM_BATCHES)
            .map(|index| {
                let batch = match *self {
                    Self::Gpt { vocab_size, seq_len, batch_size, .. } => {
                        gpt_batch(index, vocab_size, seq_len, batch_size)
                    }
                    Self::Mlp { input_size, output_size, batch_size, .. } => {
                        mlp_batch(index, input_size, output_size, batch_size)?
                    }
                };
                ffi::eval([&batch.x, &batch.y])?;
                Ok(batch)
            })
            .collect()
    }
}

fn gpt_batch(index: i32, vocab_size: i32, seq_len: i32, batch_size: i32) -> Batch {
    let token = |row: i32, at: i32| (31 * row + (1 + row % 3) * at) % vocab_size;
    let tokens = |shift: i32| {
        let row = |row| (shift..seq_len + shift).map(move |at| token(row, at));
        let first = index * batch_size;
        let all: Vec<i32> = (first..first + batch_size).flat_map(row).collect();
        Array::from_slice(&all, &[batch_size, seq_len])
    };
    Batch::new(tokens(0), tokens(1))
}

fn mlp_batch(index: i32, input_size: i32, output_size: i32, batch_size: i32) -> Result<Batch> {
    let count = input_size * batch_size;
    let at = Array::from_iter(index * count..(index + 1) * count, &[batch_size, input_size]);
    let x = at.as_type::<f32>()?.multiply(Array::from_f32(0.37))?.sin()?;
    let rows: Vec<i32> = (0..batch_size).map(|row| (row + index) % output_size).collect();
    Ok(Batch::new(x, Array::from_slice(&rows, &[batch_size])))
}
