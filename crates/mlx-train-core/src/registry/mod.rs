//! Look-up of models by name: what `#[register_model("name")]` registered, in all linked crates.
//!
//! ```
//! use mlx_train_core::{
//!     Array, ModuleParameters, Result,
//!     config::ModelConfig,
//!     model::{BaseModel, FromConfig, Loss},
//!     register_model,
//!     registry::ModelRegistry,
//! };
//!
//! #[derive(Debug, Clone, ModelConfig)]
//! struct ShiftConfig {
//!     /// What is added.
//!     #[config(default = 1.0)]
//!     by: f32,
//! }
//!
//! /// Adds a number.
//! #[register_model("shift", aliases = ["plus"], tags = ["toy"])]
//! #[derive(Debug, ModuleParameters)]
//! struct Shift(f32);
//!
//! impl FromConfig for Shift {
//!     type Config = ShiftConfig;
//!     fn from_config(config: &ShiftConfig) -> Result<Self> {
//!         Ok(Self(config.by))
//!     }
//! }
//!
//! impl BaseModel for Shift {
//!     fn forward(&mut self, x: &Array) -> Result<Array> {
//!         Ok(x.add(Array::from_f32(self.0))?)
//!     }
//!     fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
//!         Ok(mlx_train_core::loss::mse(&self.forward(x)?, y)?)
//!     }
//! }
//!
//! let mut model = ModelRegistry::get_model("shift")?.build(["by=2"])?;
//! assert_eq!(model.forward(&Array::from_f32(1.0))?.try_item_exact::<f32>().ok(), Some(3.0));
//!
//! let found = ModelRegistry::list("sh*")?;
//! assert_eq!((found[0].name(), found[0].description()), ("shift", "Adds a number."));
//! # Ok::<(), mlx_train_core::Error>(())
//! ```
//!
//! A model is registered when its crate is linked. Rust links a crate that the program names:
//! `use my_models as _;` is enough.
//!
//! Nothing runs before `main`. The linker gathers the entries, in an order that means nothing; the
//! first look-up builds an index of them, once for the process.

mod description;
mod entry;
mod error;
mod index;
#[cfg(test)]
mod tests;

pub use description::{Description, FieldDescription};
pub use entry::{ModelEntry, ResolvedConfig};
pub use error::{NameClash, RegistryError};

use crate::Result;
use index::Index;
use std::sync::OnceLock;

/// What `#[register_model]` expands to, and the index for benchmarks of more models than a program has; not part of
/// the public API.
#[doc(hidden)]
pub mod private {
    pub use super::{
        MLX_TRAIN_MODELS,
        entry::{ModelEntry, RegisteredBuild, RegisteredModel, Registration},
        index::Index,
    };
}

/// Every entry of every linked crate. The name is long because linkme's are global to a program.
#[doc(hidden)]
#[allow(unsafe_code)] // linkme marks the ends of a linker section.
#[linkme::distributed_slice]
pub static MLX_TRAIN_MODELS: [ModelEntry];

/// The models of this program.
///
/// Names are matched exactly. An alias stands for the name wherever a name is looked up.
#[derive(Debug, Clone, Copy)]
pub struct ModelRegistry;

impl ModelRegistry {
    /// The model with this name or alias, to [`build`](ModelEntry::build).
    ///
    /// # Errors
    /// [`RegistryError::UnknownModel`] with the names that are close, or
    /// [`RegistryError::NameClash`] when more than one model is registered under the name.
    pub fn get_model(name: &str) -> Result<&'static ModelEntry> {
        Ok(index().get(name)?)
    }

    /// The models whose name or one of whose aliases matches a glob, in natural order (`mlp2` before
    /// `mlp10`); none is not an error.
    ///
    /// In a glob, `*` stands for any characters, `?` for one, `[ab]` for one of some, `{a,b}` for
    /// one of some texts. `tag:vision` matches tags instead, also with a glob.
    ///
    /// # Errors
    /// [`RegistryError::Pattern`] for a malformed glob, or [`RegistryError::NameClash`] when a
    /// model that matches shares its name or an alias with another one.
    pub fn list(pattern: &str) -> Result<Vec<&'static ModelEntry>> {
        Ok(index().list(pattern)?)
    }

    /// Every model, in natural order of the names.
    ///
    /// # Errors
    /// [`RegistryError::NameClash`] with every name that more than one model has.
    pub fn all() -> Result<Vec<&'static ModelEntry>> {
        Self::list("*")
    }

    /// Everything about the model with this name or alias: what it is, where it is defined, and the
    /// fields of its config.
    ///
    /// # Errors
    /// As [`ModelRegistry::get_model`].
    pub fn describe(name: &str) -> Result<Description> {
        Ok(Description::new(Self::get_model(name)?))
    }
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| Index::new(MLX_TRAIN_MODELS.static_slice()))
}
