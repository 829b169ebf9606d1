//! A deep model of blocks with dropout, and what tests ask of it.

use mlx_rs::{
    Array, Dtype,
    module::{Module, ModuleParameters, Param},
    ops::tanh,
    random::normal,
};
use mlx_train_core::{
    Result,
    batch::Batch,
    checkpoint::{self, CheckpointPolicy, with_policy},
    ffi, loss,
    model::{BaseModel, Loss},
    nn::{Dropout, Linear, RmsNorm, Stack},
    rng,
};
use std::slice::from_ref;

/// Features of an example.
pub const WIDTH: i32 = 8;

/// Two parts, each behind a norm and added to its input; the first one drops inside, the second behind it.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
pub struct Block {
    #[param]
    pub norm: RmsNorm,
    #[param]
    pub mix: Linear,
    #[param]
    pub up: Linear,
    #[param]
    pub down: Linear,
    #[param]
    pub seen: Statistics,
    pub dropout: Dropout,
}

/// A running mean, which is not trained.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
pub struct Statistics {
    #[param]
    pub mean: Param<Array>,
}

impl Block {
    pub fn new() -> Result<Self> {
        let mut seen = Statistics { mean: Param::new(Array::from_f32(0.0)) };
        seen.freeze_parameters(true);
        Ok(Self {
            norm: RmsNorm::new(WIDTH)?,
            mix: Linear::new(WIDTH, WIDTH)?,
            up: Linear::new(WIDTH, 4 * WIDTH)?,
            down: Linear::new(4 * WIDTH, WIDTH)?,
            seen,
            dropout: Dropout::new(0.25)?,
        })
    }

    pub fn forward(&mut self, x: &Array) -> Result<Array> {
        let dropout = self.dropout;
        let mixed: Array = checkpoint::part(
            "mix",
            (&mut self.norm, &mut self.mix, &mut self.seen),
            from_ref(x),
            move |(norm, mix, seen), x| {
                let x = norm.forward(&x[0])?;
                let change = x.mean(None)?.subtract(&*seen.mean)?.multiply(Array::from_f32(0.1))?;
                seen.mean.value = seen.mean.add(change)?;
                dropout.forward(&tanh(mix.forward(&x)?)?)
            },
        )?;
        let x = x.add(mixed)?;
        let parts = (&mut self.up, &mut self.down);
        let mixed: Array = checkpoint::part("mlp", parts, from_ref(&x), |(up, down), x| {
            Ok(down.forward(&tanh(up.forward(&x[0])?)?)?)
        })?;
        Ok(x.add(self.dropout.forward(&mixed)?)?)
    }
}

/// Blocks around which their input passes, too, and a dropout that shows whether they have drawn alike.
#[derive(Debug, Clone, mlx_train_core::ModuleParameters)]
pub struct Deep {
    #[param]
    pub blocks: Stack<Block>,
    pub dropout: Dropout,
}

impl Deep {
    pub fn new(num_blocks: usize) -> Result<Self> {
        rng::scope(&rng::key(3)?, || {
            let blocks = (0..num_blocks).map(|_| Block::new()).collect::<Result<_>>()?;
            Ok(Self { blocks, dropout: Dropout::new(0.25)? })
        })
    }
}

impl BaseModel for Deep {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        let mixed = self.blocks.forward(x.clone(), |block, _, x| block.forward(&x))?;
        self.dropout.forward(&x.add(mixed)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(&self.forward(x)?, y)
    }
}

/// Features and targets `(rows, WIDTH)`.
pub fn batch(rows: i32, seed: u64) -> Result<Batch> {
    let draw = |seed| -> Result<Array> {
        Ok(normal::<f32>(&[rows, WIDTH], None, None, &rng::key(seed)?)?)
    };
    let (x, y) = (draw(seed)?, draw(seed + 1)?);
    ffi::eval([&x, &y])?;
    Ok(Batch::new(x, y))
}

/// Every policy, in the words of a config.
pub const POLICIES: [&str; 7] = [
    "none",
    "full",
    "every=2",
    "layers=[0,2]",
    "selective=[mix]",
    "selective=[mlp]",
    "selective=[mix,mlp]",
];

pub fn policy(text: &str) -> CheckpointPolicy {
    text.parse().unwrap()
}

/// Loss, input gradient, parameter gradients by name, and running means after it, as bits.
pub fn gradients(policy: &CheckpointPolicy) -> Result<Vec<Vec<u8>>> {
    let mut model = Deep::new(4)?;
    let Batch { x, y, .. } = batch(5, 7)?;
    let mut names: Vec<_> = model.trainable_parameters().flatten().into_keys().collect();
    names.sort();
    let values = names.iter().map(|name| model.parameters().flatten()[name].clone());
    let inputs: Vec<Array> = [x].into_iter().chain(values).collect();
    let argnums: Vec<usize> = (0..inputs.len()).collect();
    let loss = |inputs: &[Array]| {
        let mut parameters = model.parameters_mut().flatten();
        for (name, value) in names.iter().zip(&inputs[1..]) {
            **parameters.get_mut(name).unwrap() = value.clone();
        }
        let loss =
            rng::scope(&rng::key(11)?, || with_policy(policy, || model.loss_fn(&inputs[0], &y)))?;
        Ok(vec![loss.value])
    };
    let (loss, gradients) = ffi::value_and_grad(loss, &inputs, &argnums)?;
    let means: Vec<Array> =
        model.blocks.iter().map(|block| block.seen.mean.value.clone()).collect();
    let all: Vec<Array> = [loss, gradients, means].concat();
    all.iter().map(bits).collect()
}

/// The bits of an array.
pub fn bits(array: &Array) -> Result<Vec<u8>> {
    let flat = array.reshape(&[-1])?.contiguous()?.view_dtype(Dtype::Uint8)?;
    Ok(flat.try_as_slice::<u8>()?.to_vec())
}
