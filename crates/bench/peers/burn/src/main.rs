//! Steps of training in burn.

#[path = "../../serve.rs"]
mod serve;

use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::{
        Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig,
        RotaryEncoding, RotaryEncodingConfig, loss::CrossEntropyLossConfig,
    },
    optim::{AdamWConfig, GradientsParams},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::{relu, silu},
        module::attention,
        ops::AttentionModuleOptions,
    },
};
use serve::{Sizes, Task, serve};
use std::error::Error;

#[derive(Module, Debug)]
struct Block {
    norm1: RmsNorm,
    norm2: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
    num_heads: usize,
}

impl Block {
    fn forward(&self, x: Tensor<3>, rope: &RotaryEncoding) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let normed = self.norm1.forward(x.clone());
        let heads = |linear: &Linear| {
            let shape = [batch, tokens, self.num_heads, width / self.num_heads];
            linear.forward(normed.clone()).reshape(shape).swap_dims(1, 2)
        };
        let (q, k) = (rope.forward(heads(&self.q)), rope.forward(heads(&self.k)));
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let mixed = attention(q, k, heads(&self.v), None, None, options);
        let mixed = mixed.swap_dims(1, 2).reshape([batch, tokens, width]);
        let x = x + self.o.forward(mixed);
        let normed = self.norm2.forward(x.clone());
        let gated = silu(self.gate.forward(normed.clone())) * self.up.forward(normed);
        x + self.down.forward(gated)
    }
}

#[derive(Module, Debug)]
struct Gpt {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: RotaryEncoding,
}

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

/// What both models do.
trait Model: Module {
    type Input: Clone;

    /// Logits, a row for each target.
    fn logits(&self, x: Self::Input) -> Tensor<2>;
}

impl Model for Gpt {
    type Input = Tensor<2, Int>;

    fn logits(&self, x: Self::Input) -> Tensor<2> {
        let mut h = self.embedding.forward(x);
        for block in &self.blocks {
            h = block.forward(h, &self.rope);
        }
        let [batch, tokens, width] = h.dims();
        let h = self.norm.forward(h).reshape([batch * tokens, width]);
        h.matmul(self.embedding.weight.val().transpose())
    }
}

impl Model for Mlp {
    type Input = Tensor<2>;

    fn logits(&self, x: Self::Input) -> Tensor<2> {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x, |x, (index, layer)| {
            let x = layer.forward(x);
            if index < last { relu(x) } else { x }
        })
    }
}

/// Sums the squares of all gradients, then scales them.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    total: f64,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(parameter.id) {
            self.total += f64::from(gradient.powi_scalar(2).sum().into_scalar::<f32>());
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    scale: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(parameter.id) {
            self.gradients.register(parameter.id, gradient.mul_scalar(self.scale));
        }
    }
}

/// Serves with a model and its batches.
fn train<M: Model>(
    model: M,
    batches: &[(M::Input, Tensor<1, Int>)],
    task: &Task,
    device: &Device,
) -> Result<(), Box<dyn Error>> {
    let loss_of = CrossEntropyLossConfig::new().init(device);
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
    // A step takes the model, and gives it back.
    let mut model = Some(model);
    serve(["burn", "0.22.1", "flex"], batches, |(x, y)| {
        let before = model.take().ok_or("the model is gone")?;
        let loss = loss_of.forward(before.logits(x.clone()), y.clone());
        let mut gradients = GradientsParams::from_grads(loss.backward(), &before);
        if let Some(max_norm) = task.max_grad_norm {
            let mut squares = Squares { gradients: &gradients, total: 0.0 };
            before.visit(&mut squares);
            let scale = (max_norm / (squares.total.sqrt() + 1e-6)).min(1.0);
            before.visit(&mut Scale { gradients: &mut gradients, scale });
        }
        model = Some(optimizer.step(1e-4, before, gradients));
        Ok(loss.into_scalar::<f32>())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::of_arguments()?;
    let device = Device::flex().autodiff();
    match task.sizes {
        Sizes::Gpt {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size,
            seq_len,
            batch_size,
        } => {
            let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
            let linear = |from, to| {
                let config = LinearConfig::new(from, to).with_bias(false);
                config.with_initializer(initializer.clone()).init(&device)
            };
            let square = || linear(hidden_size, hidden_size);
            let norm = || RmsNormConfig::new(hidden_size).init(&device);
            let block = |_| Block {
                norm1: norm(),
                norm2: norm(),
                q: square(),
                k: square(),
                v: square(),
                o: square(),
                gate: linear(hidden_size, intermediate_size),
                up: linear(hidden_size, intermediate_size),
                down: linear(intermediate_size, hidden_size),
                num_heads,
            };
            let embedding = EmbeddingConfig::new(vocab_size, hidden_size);
            let model = Gpt {
                embedding: embedding.with_initializer(initializer.clone()).init(&device),
                blocks: (0..num_layers).map(block).collect(),
                norm: norm(),
                rope: RotaryEncodingConfig::new(seq_len, hidden_size / num_heads).init(&device),
            };
            let token =
                |row: usize, at: usize| ((31 * row + (1 + row % 3) * at) % vocab_size) as i32;
            let batches = (0..4).map(|index: usize| {
                let tokens = |shift: usize| {
                    let rows = index * batch_size..(index + 1) * batch_size;
                    let row = |row| (shift..seq_len + shift).map(move |at| token(row, at));
                    rows.flat_map(row).collect::<Vec<i32>>()
                };
                let x = TensorData::new(tokens(0), [batch_size, seq_len]);
                let y = TensorData::new(tokens(1), [batch_size * seq_len]);
                (Tensor::from_data(x, &device), Tensor::from_data(y, &device))
            });
            train(model, &batches.collect::<Vec<_>>(), &task, &device)
        }
        Sizes::Mlp { input_size, hidden_sizes: [first, second], output_size, batch_size } => {
            let widths = [input_size, first, second, output_size];
            let layers =
                widths.windows(2).map(|pair| LinearConfig::new(pair[0], pair[1]).init(&device));
            let model = Mlp { layers: layers.collect() };
            let count = input_size * batch_size;
            let batches = (0..4).map(|index: usize| {
                let x = (index * count..(index + 1) * count).map(|at| (0.37 * at as f32).sin());
                let y = (0..batch_size).map(|row| ((row + index) % output_size) as i32);
                let x = TensorData::new(x.collect::<Vec<f32>>(), [batch_size, input_size]);
                let y = TensorData::new(y.collect::<Vec<i32>>(), [batch_size]);
                (Tensor::from_data(x, &device), Tensor::from_data(y, &device))
            });
            train(model, &batches.collect::<Vec<_>>(), &task, &device)
        }
    }
}
