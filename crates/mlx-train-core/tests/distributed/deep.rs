//! A model with a stack of blocks, trained for a few steps in any layout.

use super::trained::{Trained, train};
use mlx_rs::{module::Module, ops::tanh};
use mlx_train_core::{
    Array, Result,
    batch::{Batch, IGNORED_TARGET},
    checkpoint::{self, CheckpointPolicy},
    distributed::{Mesh, Shard},
    loss::{CrossEntropy, cross_entropy},
    model::{BaseModel, Loss},
    nn::{Dropout, Linear, RmsNorm, Stack},
    optim::{AdamW, Clip, Group, Optimizer, ParameterGroups, Sgd},
    rng,
    train::{CompileMode, StepOptions},
};
use std::ops::Range;

/// `x + down(tanh(up(norm(x))))`, `(B, C)` in and out.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters, mlx_train_core::Shard)]
pub struct Block {
    #[param]
    norm: RmsNorm,
    #[param]
    #[shard(columns)]
    up: Linear,
    #[param]
    #[shard(rows)]
    down: Linear,
    dropout: Dropout,
}

impl Block {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let normed = self.norm.forward(x)?;
        let modules = (&mut self.up, &mut self.down);
        let change: Array = checkpoint::part("mlp", modules, &[normed], |(up, down), x| {
            Ok(down.forward(&tanh(up.forward(&x[0])?)?)?)
        })?;
        Ok(x.add(self.dropout.forward(&change)?)?)
    }
}

/// A classifier of rows `(B, 4)` into 3, of blocks between two layers; 3 is no multiple of the ranks.
#[derive(Debug, mlx_train_core::ModuleParameters, mlx_train_core::Shard)]
pub struct Deep {
    #[param]
    first: Linear,
    #[param]
    #[shard]
    blocks: Stack<Block>,
    #[param]
    head: Linear,
}

impl Deep {
    pub fn new(seed: u64, hidden_size: i32, num_blocks: usize, dropout: f32) -> Result<Self> {
        rng::scope(&rng::key(seed)?, || {
            let block = || {
                Ok(Block {
                    norm: RmsNorm::new(hidden_size)?,
                    up: Linear::new(hidden_size, 2 * hidden_size)?,
                    down: Linear::new(2 * hidden_size, hidden_size)?,
                    dropout: Dropout::new(dropout)?,
                })
            };
            let blocks = (0..num_blocks).map(|_| block()).collect::<Result<_>>()?;
            let (first, head) = (Linear::new(4, hidden_size)?, Linear::new(hidden_size, 3)?);
            Ok(Self { first, blocks, head })
        })
    }
}

impl BaseModel for Deep {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let x = self.first.forward(x)?;
        let x = self.blocks.forward(x, |block, _, x| block.forward(&x))?;
        Ok(self.head.forward(&x)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let options = CrossEntropy { ignore_index: Some(IGNORED_TARGET), ..Default::default() };
        cross_entropy(&self.forward(x)?, y, &options)
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

/// Rows of a step: numbers that follow from their place, and every fifth target masked.
pub fn rows(step: i32, rows: Range<i32>) -> Batch {
    let x: Vec<f32> = rows
        .clone()
        .flat_map(|row| (0..4).map(move |i| ((row * 5 + i * 3 + step * 7) as f32 * 0.37).sin()))
        .collect();
    let y: Vec<i32> = rows
        .clone()
        .map(|row| if row % 5 == 3 { IGNORED_TARGET } else { (row + step) % 3 })
        .collect();
    let count = rows.len() as i32;
    Batch::new(Array::from_slice(&x, &[count, 4]), Array::from_slice(&y, &[count]))
}

/// The rows of a data rank among the first `total`: unequal numbers of them.
fn own_rows(mesh: &Mesh, total: i32) -> Range<i32> {
    let (rank, ranks) = (mesh.data().rank(), mesh.data().world_size());
    let cut = |rank: usize| if rank == ranks { total } else { rank as i32 * (total / 5) };
    cut(rank)..cut(rank + 1)
}

/// Another seed on each rank: all begin with the weights of rank 0.
pub fn small(rank: usize) -> Result<Deep> {
    Deep::new(rank as u64, 16, 3, 0.0)
}

/// Rows of a step of all ranks.
const ROWS: i32 = 24;

/// Some steps of all ranks, whose rows `batches` cuts up, and of one process with all of them.
pub fn both(
    mesh: &Mesh,
    optimizer: impl Fn() -> Box<dyn Optimizer>,
    options: &StepOptions,
    batches: impl Fn(i32, Range<i32>) -> Vec<Batch>,
) -> Result<[Trained; 2]> {
    let (own, rank) = (own_rows(mesh, ROWS), mesh.all().rank());
    let ranks = train(mesh, small(rank)?, optimizer(), options.clone(), 3, |step| {
        batches(step, own.clone())
    })?;
    let one = train(&Mesh::alone(), small(0)?, optimizer(), options.clone(), 3, |step| {
        vec![rows(step, 0..ROWS)]
    })?;
    Ok([ranks, one])
}

pub fn adamw() -> Box<dyn Optimizer> {
    Box::new(AdamW::default())
}

/// Limits that bite, so that norms of parts alone would show.
pub fn limited_groups() -> Box<dyn Optimizer> {
    let blocks = Group::new(["blocks.*"]).unwrap().max_grad_norm(0.05).unwrap();
    let sgd = Sgd::default().momentum(0.9).unwrap();
    Box::new(ParameterGroups::new(sgd).group(blocks))
}

/// Eager steps, whose gradients are limited and whose weights are averaged.
pub fn options() -> Result<StepOptions> {
    Ok(StepOptions {
        clip: Clip::default().global_norm(0.5)?,
        compile: CompileMode::Off,
        gradient_checkpointing: CheckpointPolicy::Full,
        ema_decay: Some(0.9),
        ..StepOptions::default()
    })
}
