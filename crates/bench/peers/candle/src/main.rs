//! Steps of training in candle.
//!
//! candle's fused softmax, norm and rotary operations have no gradients, so those made of plain ones are used.

#[path = "../../serve.rs"]
mod serve;

use candle_core::{D, DType, Device, Error, Result, Tensor, Var};
use candle_nn::{
    AdamW, Embedding, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, embedding,
    linear, linear_no_bias,
    loss::cross_entropy,
    ops::{silu, softmax},
    rotary_emb::rope_slow,
};
use serve::{Sizes, Task, serve};

struct Norm(Tensor);

impl Norm {
    fn new(width: usize, vars: VarBuilder) -> Result<Self> {
        vars.get_with_hints(width, "weight", candle_nn::init::ONE).map(Self)
    }
}

impl Module for Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean + 1e-5)?.sqrt()?)?.broadcast_mul(&self.0)
    }
}

struct Block {
    norms: [Norm; 2],
    projections: [Linear; 4],
    feed_forward: [Linear; 3],
    num_heads: usize,
}

impl Block {
    fn forward(&self, x: &Tensor, angles: &[Tensor; 2], mask: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let [q, k, v, o] = &self.projections;
        let normed = self.norms[0].forward(x)?;
        let heads = |linear: &Linear| {
            let shape = (batch, tokens, self.num_heads, width / self.num_heads);
            linear.forward(&normed)?.reshape(shape)?.transpose(1, 2)?.contiguous()
        };
        let rotate = |x: Tensor| rope_slow(&x, &angles[0], &angles[1]);
        let (q, k, v) = (rotate(heads(q)?)?, rotate(heads(k)?)?, heads(v)?);
        let scale = ((width / self.num_heads) as f64).powf(-0.5);
        let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(mask)?;
        let mixed = softmax(&scores, D::Minus1)?.matmul(&v)?;
        let x = (x + o.forward(&mixed.transpose(1, 2)?.reshape((batch, tokens, width))?)?)?;
        let normed = self.norms[1].forward(&x)?;
        let [gate, up, down] = &self.feed_forward;
        &x + down.forward(&(silu(&gate.forward(&normed)?)? * up.forward(&normed)?)?)?
    }
}

enum Model {
    Gpt { embedding: Embedding, blocks: Vec<Block>, norm: Norm, angles: [Tensor; 2], mask: Tensor },
    Mlp(Vec<Linear>),
}

impl Model {
    fn new(sizes: Sizes, vars: &VarBuilder, device: &Device) -> Result<Self> {
        match sizes {
            Sizes::Gpt {
                vocab_size,
                hidden_size,
                num_layers,
                num_heads,
                intermediate_size,
                seq_len,
                ..
            } => {
                let block = |index: usize| {
                    let vars = vars.pp(format!("blocks.{index}"));
                    let linear = |name: &str, from, to| linear_no_bias(from, to, vars.pp(name));
                    let square = |name: &str| linear(name, hidden_size, hidden_size);
                    Ok(Block {
                        norms: [
                            Norm::new(hidden_size, vars.pp("norm1"))?,
                            Norm::new(hidden_size, vars.pp("norm2"))?,
                        ],
                        projections: [square("q")?, square("k")?, square("v")?, square("o")?],
                        feed_forward: [
                            linear("gate", hidden_size, intermediate_size)?,
                            linear("up", hidden_size, intermediate_size)?,
                            linear("down", intermediate_size, hidden_size)?,
                        ],
                        num_heads,
                    })
                };
                let half = hidden_size / num_heads / 2;
                let angle =
                    |at: usize, i: usize| at as f32 * 10000_f32.powf(-(i as f32) / half as f32);
                let table = |f: fn(f32) -> f32| {
                    let at = (0..seq_len).flat_map(|at| (0..half).map(move |i| f(angle(at, i))));
                    Tensor::from_vec(at.collect(), (seq_len, half), device)
                };
                let later = |(query, key): (usize, usize)| {
                    if key > query { f32::NEG_INFINITY } else { 0.0 }
                };
                let pairs =
                    (0..seq_len).flat_map(|query| (0..seq_len).map(move |key| (query, key)));
                let mask = Tensor::from_vec(pairs.map(later).collect(), (seq_len, seq_len), device);
                Ok(Self::Gpt {
                    embedding: embedding(vocab_size, hidden_size, vars.pp("embedding"))?,
                    blocks: (0..num_layers).map(block).collect::<Result<_>>()?,
                    norm: Norm::new(hidden_size, vars.pp("norm"))?,
                    angles: [table(f32::cos)?, table(f32::sin)?],
                    mask: mask?,
                })
            }
            Sizes::Mlp { input_size, hidden_sizes: [first, second], output_size, .. } => {
                let widths = [input_size, first, second, output_size];
                let layers = widths.windows(2).enumerate();
                let layers = layers.map(|(i, pair)| linear(pair[0], pair[1], vars.pp(i)));
                layers.collect::<Result<_>>().map(Self::Mlp)
            }
        }
    }

    /// Logits, a row for each target.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gpt { embedding, blocks, norm, angles, mask } => {
                let mut h = embedding.forward(x)?;
                for block in blocks {
                    h = block.forward(&h, angles, mask)?;
                }
                let h = norm.forward(&h)?.flatten_to(1)?;
                h.matmul(&embedding.embeddings().t()?)
            }
            Self::Mlp(layers) => {
                let (last, others) = layers.split_last().ok_or(Error::Msg("no layers".into()))?;
                let mut h = x.clone();
                for layer in others {
                    h = layer.forward(&h)?.relu()?;
                }
                last.forward(&h)
            }
        }
    }
}

fn batches(sizes: Sizes, device: &Device) -> Result<Vec<(Tensor, Tensor)>> {
    let of = |index: usize| match sizes {
        Sizes::Gpt { vocab_size, seq_len, batch_size, .. } => {
            let tokens = |shift: usize| {
                let rows = index * batch_size..(index + 1) * batch_size;
                let token = |row: usize, at: usize| (31 * row + (1 + row % 3) * at) % vocab_size;
                let row = |row| (shift..seq_len + shift).map(move |at| token(row, at) as u32);
                rows.flat_map(row).collect::<Vec<_>>()
            };
            let x = Tensor::from_vec(tokens(0), (batch_size, seq_len), device)?;
            Ok((x, Tensor::from_vec(tokens(1), batch_size * seq_len, device)?))
        }
        Sizes::Mlp { input_size, output_size, batch_size, .. } => {
            let count = input_size * batch_size;
            let x = (index * count..(index + 1) * count).map(|at| (0.37 * at as f32).sin());
            let y = (0..batch_size).map(|row| ((row + index) % output_size) as u32);
            let x = Tensor::from_vec(x.collect(), (batch_size, input_size), device)?;
            Ok((x, Tensor::from_vec(y.collect(), batch_size, device)?))
        }
    };
    (0..4).map(of).collect()
}

/// One step; returns the loss before it.
fn step(
    task: &Task,
    model: &Model,
    variables: &[Var],
    optimizer: &mut AdamW,
    (x, y): &(Tensor, Tensor),
) -> Result<f32> {
    let loss = cross_entropy(&model.forward(x)?, y)?;
    let mut gradients = loss.backward()?;
    if let Some(max_norm) = task.max_grad_norm {
        let mut total = 0.0;
        for gradient in variables.iter().filter_map(|variable| gradients.get(variable)) {
            total += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let scale = (max_norm / (total.sqrt() + 1e-6)).min(1.0);
        for variable in variables {
            if let Some(gradient) = gradients.remove(variable) {
                gradients.insert(variable, (gradient * scale)?);
            }
        }
    }
    optimizer.step(&gradients)?;
    loss.to_scalar()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let task = Task::of_arguments()?;
    let device = Device::Cpu;
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let model = Model::new(task.sizes, &builder, &device)?;
    let variables = variables.all_vars();
    if let Sizes::Gpt { .. } = task.sizes {
        for variable in variables.iter().filter(|variable| variable.rank() > 1) {
            variable.set(&Tensor::randn(0_f32, 0.02, variable.shape(), &device)?)?;
        }
    }
    let parameters = ParamsAdamW { lr: 1e-4, weight_decay: 0.01, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(variables.clone(), parameters)?;
    let batches = batches(task.sizes, &device)?;
    serve(["candle", "0.11.1", "CPU"], &batches, |batch| {
        Ok(step(&task, &model, &variables, &mut optimizer, batch)?)
    })
}
