//! A small model whose layers are marked, and its data.

use mlx_rs::{
    Array,
    module::{Module, Param, Parameter},
    ops::tanh,
    random::normal,
};
use mlx_train_core::{
    Result, checkpoint,
    data::InMemory,
    loss,
    model::{BaseModel, Loss},
    nn::{Dropout, Linear, Stack},
    profile::{layer, splits_steps},
    rng,
};
use std::slice::from_ref;

/// Two blocks of a linear layer with dropout, the second of which is marked inside, too; and a count that moves.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Marked {
    #[param]
    pub small: Linear,
    #[param]
    pub large: Linear,
    #[param]
    pub num_calls: Param<Array>,
    dropout: Dropout,
}

impl Marked {
    pub fn new() -> Result<Self> {
        rng::scope(&rng::key(3)?, || {
            let mut model = Self {
                small: Linear::new(8, 8)?,
                large: Linear::new(8, 256)?,
                num_calls: Param::new(Array::from_f32(0.0)),
                dropout: Dropout::new(0.5)?,
            };
            model.num_calls.freeze(true);
            Ok(model)
        })
    }
}

impl BaseModel for Marked {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        self.num_calls.value = self.num_calls.value.add(Array::from_f32(1.0))?;
        let dropout = &mut self.dropout;
        let small = layer("small", &mut self.small, from_ref(x), |small, x| {
            Ok(tanh(small.forward(&x[0])?)?)
        })?;
        let large = layer("large", &mut self.large, &[small], |large, x| {
            let wide = layer("inside", large, x, |large, x| Ok(large.forward(&x[0])?))?;
            dropout.forward(&wide)
        })?;
        Ok(large.mean_axis(-1, true)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// A linear layer, and what a watcher sees each time that it runs.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Watched {
    #[param]
    pub linear: Linear,
    /// Whether steps are split.
    pub splits: Vec<bool>,
    /// The weight after the layer has run.
    pub weights: Vec<Array>,
}

impl Watched {
    pub fn new() -> Result<Self> {
        Ok(Self { linear: Linear::new(8, 1)?, splits: Vec::new(), weights: Vec::new() })
    }
}

impl BaseModel for Watched {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        self.splits.push(splits_steps());
        let linear = &mut self.linear;
        let y = layer("linear", linear, from_ref(x), |linear, x| Ok(linear.forward(&x[0])?))?;
        self.weights.push(linear.weight.value.clone());
        Ok(y)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// Blocks of two marked parts, in a stack.
#[derive(Debug, mlx_train_core::ModuleParameters)]
pub struct Stacked {
    #[param]
    blocks: Stack<Block>,
}

#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
struct Block {
    #[param]
    up: Linear,
    #[param]
    down: Linear,
    dropout: Dropout,
}

impl Stacked {
    pub fn new(num_blocks: usize) -> Result<Self> {
        rng::scope(&rng::key(4)?, || {
            let block = |_| {
                let dropout = Dropout::new(0.5)?;
                Ok(Block { up: Linear::new(8, 64)?, down: Linear::new(64, 8)?, dropout })
            };
            Ok(Self { blocks: (0..num_blocks).map(block).collect::<Result<_>>()? })
        })
    }
}

impl BaseModel for Stacked {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.blocks.forward(x.clone(), |block, _, x| {
            let Block { up, down, dropout } = block;
            let wide =
                checkpoint::part("up", &mut *up, &[x], |up, x| Ok(tanh(up.forward(&x[0])?)?))?;
            let wide = dropout.forward(&wide)?;
            checkpoint::part("down", &mut *down, &[wide], |down, x| Ok(down.forward(&x[0])?))
        })?;
        Ok(x.mean_axis(-1, true)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// 32 rows of 8 numbers, and their first.
pub fn data() -> Result<InMemory> {
    let key = rng::key(5)?;
    let x = normal::<f32>(&[32, 8], None, None, Some(&key))?;
    let y = mlx_rs::ops::split_at_indices(&x, &[1], 1)?.swap_remove(0);
    InMemory::new(x, y)
}
