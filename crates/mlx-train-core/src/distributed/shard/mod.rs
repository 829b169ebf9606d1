//! Layers divided among ranks: what `#[derive(Shard)]` implements.
//!
//! A model says by attributes on its fields how its layers are split, and [`Sharding`] goes through it once: it
//! writes down which axis of which parameter is split, and hands the layers the group that they compute with. Arrays
//! are never touched: whoever trains the model takes each rank's part of them by the [`Splits`].
//!
//! A part of a model that is split begins with layers by columns, whose outputs each rank has a part of, and ends with
//! one by rows, which takes such parts and whose outputs are added up over ranks. Source: Shoeybi et al.,
//! arXiv:1909.08053, section 3.

mod sharding;
mod splits;
pub mod way;

pub use sharding::Sharding;
pub(crate) use sharding::Turn;
pub use splits::Splits;

/// A model, or a part of one, whose layers can be divided among ranks: `#[derive(Shard)]`.
///
/// | attribute of a field | its layers | what flows |
/// | --- | --- | --- |
/// | `#[shard(columns)]` | [`Linear`](crate::nn::Linear), [`LoraLinear`](crate::nn::LoraLinear) | whole features in, a rank's part of them out |
/// | `#[shard(rows)]` | the same | a rank's part in, whole features out |
/// | `#[shard(vocabulary)]` | [`Embedding`](crate::nn::Embedding), and `Linear` as the last layer | whole in and out: ids to vectors, features to logits |
/// | `#[shard(alternating)]` | `Linear`; norms and [`Dropout`](crate::nn::Dropout) between them | by columns and by rows in turn, where widths divide |
/// | `#[shard(divide)]` | integers, such as a number of heads; `Dropout` of features in parts | |
/// | `#[shard]` | anything that is `Shard` itself | |
///
/// Each may stand on a `Vec`, an `Option`, a `Box` or a [`Stack`](crate::nn::Stack), too. Fields without an attribute
/// are the same on all ranks. The model returns itself from [`BaseModel::as_shard`](crate::model::BaseModel::as_shard).
///
/// A layer of one's own implements it by [`Sharding::split`] and [`Sharding::keep`].
pub trait Shard {
    /// Tells `sharding` what is split.
    fn shard(&mut self, sharding: &mut Sharding<'_>);
}

/// A field that can be split in a [way], which an attribute names.
pub trait SplitBy<Way> {
    /// Tells `sharding` what is split.
    fn split(&mut self, sharding: &mut Sharding<'_>);
}

/// A field type that `#[shard]` may mark; not part of the public API.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how it is split",
    label = "not `Shard`",
    note = "put `#[derive(Shard)]` on its type, or name the way: `#[shard(columns)]`, `#[shard(rows)]`, `#[shard(vocabulary)]`, `#[shard(alternating)]` or `#[shard(divide)]`"
)]
pub trait ShardField {
    fn shard_field(&mut self, sharding: &mut Sharding<'_>);
}

// Without this, rustc would list the models and layers of the engine, and none of the notes above.
#[diagnostic::do_not_recommend]
impl<T: Shard> ShardField for T {
    fn shard_field(&mut self, sharding: &mut Sharding<'_>) {
        self.shard(sharding);
    }
}

/// A field type that the attribute of a way may mark; not part of the public API.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be split by `{Way}`",
    label = "cannot be split so",
    note = "`columns` and `rows` are for `Linear` and `LoraLinear`, `vocabulary` for `Embedding` and `Linear`, `alternating` for `Linear`, norms and `Dropout`, `divide` for integers and `Dropout`",
    note = "write `#[shard]` for a type with a `#[derive(Shard)]` of its own"
)]
pub trait SplitField<Way> {
    fn split_field(&mut self, sharding: &mut Sharding<'_>);
}

#[diagnostic::do_not_recommend]
impl<Way, T: SplitBy<Way>> SplitField<Way> for T {
    fn split_field(&mut self, sharding: &mut Sharding<'_>) {
        self.split(sharding);
    }
}

/// Items of `items`, each named by its position.
fn each<'a, T: 'a>(
    items: impl IntoIterator<Item = &'a mut T>,
    sharding: &mut Sharding<'_>,
    mut shard: impl FnMut(&mut T, &mut Sharding<'_>),
) {
    for (index, item) in items.into_iter().enumerate() {
        sharding.field(&index.to_string(), |sharding| shard(item, sharding));
    }
}

impl<T: Shard> Shard for Vec<T> {
    fn shard(&mut self, sharding: &mut Sharding<'_>) {
        each(self, sharding, T::shard);
    }
}

impl<T: Shard> Shard for Option<T> {
    fn shard(&mut self, sharding: &mut Sharding<'_>) {
        if let Some(it) = self {
            it.shard(sharding);
        }
    }
}

impl<T: Shard + ?Sized> Shard for Box<T> {
    fn shard(&mut self, sharding: &mut Sharding<'_>) {
        self.as_mut().shard(sharding);
    }
}

impl<Way, T: SplitBy<Way>> SplitBy<Way> for Vec<T> {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        each(self, sharding, T::split);
    }
}

impl<Way, T: SplitBy<Way>> SplitBy<Way> for Option<T> {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        if let Some(it) = self {
            it.split(sharding);
        }
    }
}

impl<Way, T: SplitBy<Way>> SplitBy<Way> for Box<T> {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        self.as_mut().split(sharding);
    }
}
