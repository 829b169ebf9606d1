//! A program as somebody else would write it: one dependency, models of its own, no mention of the
//! reference models. Without arguments it builds every model that it finds and prints a line for each;
//! with some it is a command line.
//!
//! Registration happens in the linker, and a linker may drop what nothing names. Tests inside of
//! the engine cannot see that; this program, linked like any other, can.

use mlx_train::{generate::LanguageModel, nn::KvCache, prelude::*};

/// What a layer does to its sum.
#[derive(Debug, Clone, Copy, ModelConfig)]
enum Activation {
    /// Cuts off what is negative.
    #[config(default)]
    Relu,
    /// Squashes to between -1 and 1.
    Tanh,
}

/// Sizes of what every byte passes through.
#[derive(Debug, Clone, ModelConfig)]
struct LayerConfig {
    /// The width between the two projections.
    #[config(default = 16, range = 1..)]
    width: i32,
    /// What comes between them.
    activation: Activation,
    /// Share of the activations that a training step drops.
    #[config(default = 0.1, range = 0.0..1.0)]
    dropout: f32,
}

/// Sizes of the proof.
#[derive(Debug, Clone, ModelConfig)]
#[config(validate = gain_fits, presets = presets)]
struct ProofConfig {
    /// The width of a byte's vector.
    #[config(default = 16, range = 1..)]
    hidden_size: i32,
    /// How many layers there are.
    #[config(default = 2, range = 1..)]
    num_layers: usize,
    /// Every layer.
    layer: LayerConfig,
    /// The width of a last projection; null is none.
    head_size: Option<i32>,
}

fn gain_fits(config: &ProofConfig) -> Result<(), String> {
    match config.head_size {
        Some(size) if size > config.hidden_size => Err(format!(
            "head_size ({size}) must not be above hidden_size ({})",
            config.hidden_size
        )),
        _ => Ok(()),
    }
}

fn presets() -> Vec<Preset<ProofConfig>> {
    vec![Preset::new("narrow", ProofConfig { hidden_size: 4, ..ProofConfig::default() })]
}

/// Adds what `inner` makes of its input to it.
#[derive(Debug, ModuleParameters)]
struct Residual<M> {
    #[param]
    norm: RmsNorm,
    #[param]
    inner: M,
    dropout: Dropout,
}

/// Two projections.
#[derive(Debug, ModuleParameters)]
struct Layer {
    #[param]
    up: Linear,
    #[param(rename = "down_proj")]
    down: Linear,
    activation: Activation,
}

impl Residual<Layer> {
    fn new(hidden_size: i32, config: &LayerConfig) -> Result<Self> {
        let inner = Layer {
            up: Linear::new(hidden_size, config.width)?,
            down: Linear::new(config.width, hidden_size)?,
            activation: config.activation,
        };
        let (norm, dropout) = (RmsNorm::new(hidden_size)?, Dropout::new(config.dropout)?);
        Ok(Self { norm, inner, dropout })
    }

    fn forward(&mut self, x: &Array) -> Result<Array> {
        let up = self.inner.up.forward(&self.norm.forward(x)?)?;
        let activated = match self.inner.activation {
            Activation::Relu => nn::relu(&up)?,
            Activation::Tanh => ops::tanh(&up)?,
        };
        Ok(x.add(self.dropout.forward(&self.inner.down.forward(&activated)?)?)?)
    }
}

/// Guesses a byte from the one before it.
#[register_model("proof", aliases = ["own"], tags = ["example"])]
#[derive(Debug, ModuleParameters)]
struct Proof {
    #[param]
    embedding: Embedding,
    #[param]
    layers: Vec<Residual<Layer>>,
    #[param]
    head: Option<Linear>,
    #[param]
    offset: Param<Array>,
    #[param]
    output: Linear,
}

impl FromConfig for Proof {
    type Config = ProofConfig;

    fn from_config(config: &ProofConfig) -> Result<Self> {
        let &ProofConfig { hidden_size, head_size, .. } = config;
        let layers = (0..config.num_layers).map(|_| Residual::new(hidden_size, &config.layer));
        Ok(Self {
            embedding: Embedding::new(256, hidden_size)?,
            layers: layers.collect::<Result<_>>()?,
            head: head_size.map(|size| Linear::new(hidden_size, size)).transpose()?,
            offset: Param::new(Array::zeros::<f32>(&[head_size.unwrap_or(hidden_size)])?),
            output: Linear::new(head_size.unwrap_or(hidden_size), 256)?,
        })
    }
}

impl BaseModel for Proof {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        assert_shape!(x, [_, _]); // (B, T)
        let mut x = self.embedding.forward(x)?; // (B, T, C)
        for layer in &mut self.layers {
            x = layer.forward(&x)?;
        }
        if let Some(head) = &mut self.head {
            x = head.forward(&x)?;
        }
        Ok(self.output.forward(&x.add(&self.offset.value)?)?) // (B, T, 256)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::cross_entropy(&self.forward(x)?, y, &CrossEntropy::default())
    }

    fn as_language_model(&mut self) -> Option<&mut dyn LanguageModel> {
        Some(self)
    }
}

impl LanguageModel for Proof {
    // Nothing is looked at but the last token, so there is nothing to keep.
    fn logits(&mut self, tokens: &Array, _: &mut KvCache) -> Result<Array> {
        self.forward(tokens)
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(0)
    }

    fn context_length(&self) -> usize {
        1024
    }

    fn vocab_size(&self) -> usize {
        256
    }
}

#[allow(clippy::print_stdout)] // Its output is what the test reads.
fn main() -> Result<()> {
    if std::env::args_os().len() > 1 {
        return mlx_train::cli::main();
    }
    for model in ModelRegistry::all()? {
        let built = model.build(())?;
        println!("{} {} {}", model.name(), model.type_path(), built.num_parameters());
    }
    Ok(())
}
