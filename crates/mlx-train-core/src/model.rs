//! What every model implements: [`BaseModel`], built [`FromConfig`], trained on its [`Loss`].
//!
//! Shape letters: B batch, `...` any further axes, as the model defines them.

use crate::{
    Error, Result,
    batch::Batch,
    config::ModelConfig,
    distributed::{DistributedError, Group, Shard, Sharding, Splits},
    generate::LanguageModel,
};
use mlx_rs::{Array, module::ModuleParameters};
use std::fmt::Debug;

/// A model that the engine can train, evaluate, save and load.
///
/// The trait is object safe: [`crate::registry::ModelRegistry`] builds `Box<dyn BaseModel>`.
/// Parameters come from `#[derive(ModuleParameters)]`, and their names are the keys in weight files.
///
/// Randomness (dropout) is drawn from the surrounding [`crate::rng::scope`], which the trainer
/// opens for every training step; outside of one the model is in evaluation mode.
pub trait BaseModel: ModuleParameters + Debug {
    /// Maps inputs `(B, ...)` to outputs `(B, ...)`, logits for a classifier or language model.
    ///
    /// # Errors
    /// When `x` has a shape or dtype that the model does not take, or MLX fails.
    fn forward(&mut self, x: &Array) -> Result<Array>;

    /// The training loss of inputs `x` against targets `y`, with the weight that it averages over.
    ///
    /// # Errors
    /// As [`BaseModel::forward`], and when `y` does not fit `x`.
    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss>;

    /// The training loss of a whole batch: what the engine calls.
    ///
    /// It is [`BaseModel::loss_fn`] of inputs and targets. A model that can keep the documents of
    /// packed rows apart does so here, by [`Batch::segments`].
    ///
    /// # Errors
    /// As [`BaseModel::loss_fn`]; when the batch is packed and the model cannot keep documents apart.
    fn batch_loss(&mut self, batch: &Batch) -> Result<Loss> {
        match batch.segments {
            None => self.loss_fn(&batch.x, &batch.y),
            Some(_) => Err(Error::message(
                "the batch packs several documents in a row, and this model's attention would mix them: \
                 implement `BaseModel::batch_loss`, or turn packing off",
            )),
        }
    }

    /// The loss of a whole batch with the outputs that it was computed from: what an evaluation with
    /// metrics calls.
    ///
    /// As it is, it computes the outputs a second time. A model whose loss is one function of its
    /// outputs overrides it, and [`BaseModel::loss_fn`] takes the loss from here.
    ///
    /// # Errors
    /// As [`BaseModel::batch_loss`] and [`BaseModel::forward`]; when the batch is packed, whose documents
    /// `forward` cannot keep apart.
    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        match batch.segments {
            None => Ok((self.batch_loss(batch)?, self.forward(&batch.x)?)),
            Some(_) => Err(Error::message(
                "the batch packs several documents in a row, and this model's outputs would mix them: \
                 implement `BaseModel::loss_and_outputs`, or evaluate without packing or metrics",
            )),
        }
    }

    /// Tells layers that keep a mode of their own (mlx-rs's `BatchNorm`, say) whether they train.
    ///
    /// The engine's own layers need no call: they train inside of a [`crate::rng::scope`].
    fn training_mode(&mut self, _training: bool) {}

    /// The model as a generator of text, for models that predict the next token.
    fn as_language_model(&mut self) -> Option<&mut dyn LanguageModel> {
        None
    }

    /// The model as one whose layers can be divided among ranks (tensor parallelism), for models with a
    /// `#[derive(Shard)]`.
    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        None
    }
}

impl BaseModel for Box<dyn BaseModel> {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        self.as_mut().forward(x)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        self.as_mut().loss_fn(x, y)
    }

    fn batch_loss(&mut self, batch: &Batch) -> Result<Loss> {
        self.as_mut().batch_loss(batch)
    }

    fn loss_and_outputs(&mut self, batch: &Batch) -> Result<(Loss, Array)> {
        self.as_mut().loss_and_outputs(batch)
    }

    fn training_mode(&mut self, training: bool) {
        self.as_mut().training_mode(training);
    }

    fn as_language_model(&mut self) -> Option<&mut dyn LanguageModel> {
        self.as_mut().as_language_model()
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        self.as_mut().as_shard()
    }
}

/// Divides the layers of `model` among the ranks of `group`: from here on they compute with a rank's part of their
/// parameters, which whoever calls this cuts out of them by the splits that come back.
///
/// For a process alone it is nothing, and every model can be.
///
/// # Errors
/// As [`splits`].
pub fn shard<M: BaseModel + ?Sized>(model: &mut M, group: &Group) -> Result<Splits> {
    split(model, group.world_size(), Some(group))
}

/// What of `model` [`shard`] would split over `num_ranks` ranks; the model stays as it is, and no ranks are needed.
///
/// # Errors
/// [`DistributedError::NoShard`] when the model does not say how; [`DistributedError::Indivisible`] with every size
/// that does not divide; [`DistributedError::NothingSplit`]; [`DistributedError::SplitBefore`].
pub fn splits<M: BaseModel + ?Sized>(model: &mut M, num_ranks: usize) -> Result<Splits> {
    split(model, num_ranks, None)
}

fn split<M>(model: &mut M, num_ranks: usize, group: Option<&Group>) -> Result<Splits>
where
    M: BaseModel + ?Sized,
{
    if num_ranks <= 1 {
        return Ok(Splits::default());
    }
    // Before anything changes.
    let splits = Sharding::of(as_shard(model, num_ranks)?, num_ranks, None)?;
    if splits.is_empty() {
        return Err(DistributedError::NothingSplit { num_ranks }.into());
    }
    let parameters = model.parameters().flatten();
    if let Some((name, _)) = splits.iter().find(|(name, _)| !parameters.contains_key(*name)) {
        return Err(DistributedError::NoParameter { name: name.to_owned() }.into());
    }
    if group.is_some() {
        Sharding::of(as_shard(model, num_ranks)?, num_ranks, group)?;
    }
    Ok(splits)
}

fn as_shard<M: BaseModel + ?Sized>(model: &mut M, num_ranks: usize) -> Result<&mut dyn Shard> {
    Ok(model.as_shard().ok_or(DistributedError::NoShard { num_ranks })?)
}

/// A model that can be built from a config of its own type.
pub trait FromConfig: BaseModel + Sized {
    /// The sizes and options of the model.
    type Config: ModelConfig;

    /// Builds the model with freshly drawn weights.
    ///
    /// Draws come from the surrounding [`crate::rng::scope`], so that one seed gives one model.
    ///
    /// # Errors
    /// When the config asks for something that the model cannot be, or MLX fails.
    fn from_config(config: &Self::Config) -> Result<Self>;
}

/// A mean loss and the weight that it is a mean over.
///
/// The weight is the number of unmasked targets. With it, accumulation over micro-batches and
/// averages over devices are per target, not per batch: `sum(value * weight) / sum(weight)`.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the targets: a scalar `()`, f32, in the units of the loss (nats for cross-entropy).
    pub value: Array,
    /// How many targets the mean averages: a scalar `()`, f32.
    pub weight: Array,
}

impl Loss {
    /// A mean `value` over `weight` targets; both scalars.
    pub fn new(value: Array, weight: Array) -> Self {
        Self { value, weight }
    }

    /// A mean `value` over `count` targets that are all counted.
    pub fn mean_over(value: Array, count: usize) -> Self {
        Self { value, weight: Array::from_f32(count as f32) }
    }
}
