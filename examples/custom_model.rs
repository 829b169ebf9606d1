//! A model of your own: its config, its layers, its name and its training, in one file.
//!
//! `cargo run --release -p mlx-train-examples --bin custom_model` trains it on this very file.
use mlx_train::prelude::*;

// ANCHOR: config
/// Sizes of the custom transformer.
#[derive(Debug, Clone, ModelConfig)]
#[config(validate = heads_fit)]
pub struct CustomTransformerConfig {
    /// Width of the residual stream.
    #[config(default = 768, range = 1..)]
    pub hidden_size: i32,
    /// How many blocks follow one another.
    #[config(default = 12, range = 1..)]
    pub num_layers: usize,
    /// How many heads share the attention of a block.
    #[config(default = 12, range = 1..)]
    pub num_heads: i32,
    /// Share of the activations that a training step drops.
    #[config(default = 0.1, range = 0.0..1.0)]
    pub dropout: f32,
    /// How many tokens there are.
    #[config(default = 32_000, range = 1..)]
    pub vocab_size: i32,
}

fn heads_fit(config: &CustomTransformerConfig) -> Result<(), String> {
    let fit = config.hidden_size % config.num_heads == 0;
    fit.then_some(()).ok_or_else(|| format!("num_heads must divide {}", config.hidden_size))
}
// ANCHOR_END: config

// ANCHOR: model
/// Causal attention, then a feed-forward layer, each added to what comes in.
#[derive(Debug, Clone, ModuleParameters)]
struct Block {
    #[param]
    norms: Vec<RmsNorm>,
    #[param]
    attention: Vec<Linear>,
    #[param]
    mlp: Vec<Linear>,
    dropout: Dropout,
    num_heads: i32,
}

impl Block {
    fn new(config: &CustomTransformerConfig) -> Result<Self> {
        let size = config.hidden_size;
        Ok(Self {
            norms: vec![RmsNorm::new(size)?, RmsNorm::new(size)?],
            attention: vec![Linear::new(size, 3 * size)?, Linear::new(size, size)?],
            mlp: vec![Linear::new(size, 4 * size)?, Linear::new(4 * size, size)?],
            dropout: Dropout::new(config.dropout)?,
            num_heads: config.num_heads,
        })
    }

    /// `(B, T, C)` in and out; H heads of size D.
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let qkv = self.attention[0].forward(&self.norms[0].forward(x)?)?; // (B, T, 3C)
        let qkv = ops::unflatten(&qkv, -1, &[3, self.num_heads, -1])?; // (B, T, 3, H, D)
        let qkv = qkv.transpose_axes(&[2, 0, 3, 1, 4])?; // (3, B, H, T, D)
        let (q, k, v) = (qkv.try_index(0)?, qkv.try_index(1)?, qkv.try_index(2)?);
        let scale = (q.dim(-1) as f32).sqrt().recip();
        let mixed = fast::scaled_dot_product_attention(q, k, v, scale, Causal, None)?;
        let mixed = mixed.transpose_axes(&[0, 2, 1, 3])?.flatten(2, 3)?; // (B, T, C)
        let x = x.add(self.dropout.forward(&self.attention[1].forward(&mixed)?)?)?;
        let up = nn::gelu(&self.mlp[0].forward(&self.norms[1].forward(&x)?)?)?; // (B, T, 4C)
        Ok(x.add(self.dropout.forward(&self.mlp[1].forward(&up)?)?)?)
    }
}

/// A small decoder-only transformer, without positions.
#[register_model("custom_transformer")]
#[derive(Debug, ModuleParameters)]
pub struct CustomTransformer {
    #[param]
    embedding: Embedding,
    #[param]
    blocks: Stack<Block>,
}

impl FromConfig for CustomTransformer {
    type Config = CustomTransformerConfig;
    fn from_config(config: &Self::Config) -> Result<Self> {
        let blocks = (0..config.num_layers).map(|_| Block::new(config)).collect::<Result<_>>()?;
        let embedding = Embedding::new(config.vocab_size, config.hidden_size)?;
        Ok(Self { embedding, blocks: Stack::new(blocks) })
    }
}

impl BaseModel for CustomTransformer {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        assert_shape!(x, [_, _]); // (B, T)
        let x = self.embedding.forward(x)?; // (B, T, C)
        let x = self.blocks.forward(x, |block, _, x| block.forward(&x))?;
        self.embedding.as_linear(&x) // (B, T, V): the embedding is the head, too
    }
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::cross_entropy(&self.forward(x)?, y, &CrossEntropy::default())
    }
}
// ANCHOR_END: model

// ANCHOR: train
fn main() -> Result<()> {
    let entry = ModelRegistry::get_model("custom_transformer")?;
    let sizes = ["hidden_size=64", "num_layers=2", "num_heads=4", "vocab_size=256"];
    let mut model = rng::scope(&rng::key(42)?, || entry.build(sizes))?;
    let text = Text::new(include_str!("custom_model.rs"), "this file").windows(64)?;
    let config = TrainConfig { steps: 200, batch_size: 8, ..TrainConfig::default() };
    let progress = Progress::new("bytes");
    let trained = Trainer::new(&mut model, config)?.on_event(|e| progress.show(e)).run(text)?;
    println!(
        "final loss: {:.3} nats per byte",
        trained.history.training.last().map_or(0.0, |p| p.loss)
    );
    Ok(())
}
// ANCHOR_END: train
