//! Structured configs: what [`ModelConfig`] derives, and the files that they come from.
//!
//! A config is a plain struct. Its derive generates the defaults, the strict reading from TOML, JSON
//! and YAML, the checks, and everything that describes the fields:
//!
//! ```
//! use mlx_train_core::config::{Format, ModelConfig};
//!
//! /// Sizes of a small network.
//! #[derive(Debug, Clone, ModelConfig)]
//! #[config(validate = even_heads)]
//! pub struct TinyConfig {
//!     /// Width of the residual stream.
//!     #[config(default = 64, range = 1..)]
//!     pub hidden_size: i32,
//!     #[config(default = 4, range = 1..)]
//!     pub num_heads: i32,
//!     /// Share of activations that training drops.
//!     #[config(default = 0.1, range = 0.0..1.0)]
//!     pub dropout: f32,
//! }
//!
//! fn even_heads(config: &TinyConfig) -> Result<(), String> {
//!     match config.hidden_size % config.num_heads {
//!         0 => Ok(()),
//!         _ => Err(format!("num_heads ({}) must divide hidden_size", config.num_heads)),
//!     }
//! }
//!
//! let config = TinyConfig::parse("hidden_size = 128", Format::Toml)?;
//! assert_eq!((config.hidden_size, config.num_heads), (128, 4));
//!
//! let refused = TinyConfig::parse("hiden_size = 128\ndropout = 1", Format::Toml).unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "TOML:1:1: unknown key `hiden_size`; did you mean `hidden_size`?\n\
//!      TOML:2:11: `dropout` is 1.0, but must be at least 0.0 and less than 1.0"
//! );
//! # Ok::<(), mlx_train_core::config::ConfigError>(())
//! ```
//!
//! # Defaults
//! Every field has one, because [`ModelConfig`] includes [`Default`]: numbers, strings and paths
//! name theirs with `#[config(default = …)]`; `bool` (false), [`Option`] (none), [`Vec`] (empty), nested
//! configs and other types may leave it to their own [`Default`]. What a document leaves
//! out takes its default, and a nested table keeps the outer default of what it leaves out.
//!
//! # Numbers
//! `1` is read as the float `1.0`, `1.0` is never read as an integer, an integer has to fit its
//! type, and floats are finite. An [`Option`] is null where the format has null; in TOML, leave the
//! key out, or write `"null"` where the default is not null.
//!
//! # Untrusted files
//! A file may hold 16 MiB and nest 64 deep; YAML aliases, tags and second documents are refused.

mod document;
mod error;
mod field;
mod file;
mod format;
mod hash;
mod json_schema;
mod node;
mod number;
mod overrides;
mod preset;
mod range;
mod reader;
mod schema;
mod source;
mod suggest;
mod table;
mod text;

pub use document::Document;
pub use error::{ConfigError, Problem};
pub use field::ConfigField;
pub(crate) use file::read_text;
pub use format::Format;
pub use node::Place;
pub use preset::Preset;
pub use range::Range;
pub(crate) use schema::first_paragraph;
pub use schema::{EnumSchema, FieldSchema, FieldType, Schema, VariantSchema};
pub use source::{ConfigSource, IntoConfigSource};
pub(crate) use text::text_field;

#[doc(inline)]
pub use mlx_train_derive::ModelConfig;

use crate::file::write_whole;
use reader::Reader;
use serde_json::Value;
use std::{fmt::Debug, path::Path};

/// What `#[derive(ModelConfig)]` expands to; not part of the public API.
#[doc(hidden)]
pub mod private {
    pub use super::{ConfigError, ModelConfig};
    pub use super::{
        field::{ConfigField, DerivedField},
        node::Node,
        preset::{Preset, collect_presets},
        range::{Numeric, Range},
        reader::Reader,
        schema::{EnumSchema, FieldSchema, FieldType, Schema, VariantSchema},
        source::{ConfigSource, IntoConfigSource},
        table::{Fields, read_struct, read_variant},
    };
}

/// The sizes and options of a model, or of anything else that is configured by a file.
///
/// Derive it; the [module](self) shows how, and the derive lists its attributes.
pub trait ModelConfig: ConfigField + Debug + Clone + Default + 'static {
    /// The fields with their types, defaults, ranges and docs.
    fn schema() -> Schema;

    /// The named configs of `#[config(presets = …)]`, in the order in which they were given.
    fn presets() -> Vec<Preset<Self>> {
        Vec::new()
    }

    /// The preset `name`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the known names when there is none of this name.
    fn preset(name: &str) -> Result<Self, ConfigError> {
        preset::find(name, &Self::presets()).map_err(|message| Problem::anywhere(message).into())
    }

    /// The config as JSON, fields in the order of their declaration.
    ///
    /// A float that is not finite, which [`ModelConfig::validate`] refuses, becomes null.
    fn to_value(&self) -> Value {
        self.to_node().into_json()
    }

    /// Reads a config strictly: what is missing takes its default, what is unknown, of the wrong
    /// type or out of range is an error, and all of them are reported at once.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem.
    fn from_document(document: &Document) -> Result<Self, ConfigError> {
        reader::resolve(document, None)
    }

    /// Reads a file; its extension (`.toml`, `.json`, `.yaml`, `.yml`) gives the format.
    ///
    /// # Errors
    /// When the file cannot be read, is malformed, or as [`ModelConfig::from_document`].
    fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_document(&Document::load(path)?)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// When it is malformed, or as [`ModelConfig::from_document`].
    fn parse(text: &str, format: Format) -> Result<Self, ConfigError> {
        Self::from_document(&Document::parse(text, format)?)
    }

    /// This config with `key.path=value` overrides, each checked by the type of its field.
    ///
    /// ```
    /// # use mlx_train_core::config::ModelConfig;
    /// #[derive(Debug, Clone, ModelConfig)]
    /// struct Sizes {
    ///     #[config(default = 8)]
    ///     hidden_size: i32,
    /// }
    /// assert_eq!(Sizes::default().with_overrides(["hidden_size=16"])?.hidden_size, 16);
    /// let refused = Sizes::default().with_overrides(["hidden_size=x"]).unwrap_err();
    /// assert_eq!(
    ///     refused.to_string(),
    ///     "override `hidden_size=x`: `hidden_size` is the string \"x\", but must be an integer"
    /// );
    /// # Ok::<(), mlx_train_core::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the overrides.
    fn with_overrides<S: AsRef<str>>(
        &self,
        overrides: impl IntoIterator<Item = S>,
    ) -> Result<Self, ConfigError> {
        let mut document = Document::default();
        for text in overrides {
            document.set(text.as_ref())?;
        }
        reader::resolve(&document, Some(self))
    }

    /// Checks ranges and `#[config(validate = …)]`, of nested configs too.
    ///
    /// Reading does this itself; call it on configs that were built in code.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem.
    fn validate(&self) -> Result<(), ConfigError> {
        let mut reader = Reader::default();
        reader.check(self, None);
        reader.finish(())
    }

    /// The config as the text of a file, which reads back to the same value.
    ///
    /// TOML carries the docs, types and ranges of the fields as comments.
    ///
    /// # Errors
    /// As [`ModelConfig::validate`], or [`ConfigError::NoNull`] where TOML cannot say null.
    fn to_text(&self, format: Format) -> Result<String, ConfigError> {
        self.validate()?;
        format::write(&Self::schema(), &self.to_value(), format)
    }

    /// The config as one `[section]` of a TOML file, with docs, types and ranges as comments.
    ///
    /// # Errors
    /// As [`ModelConfig::to_text`].
    fn to_toml_section(&self, section: &str) -> Result<String, ConfigError> {
        self.validate()?;
        format::write_toml_section(section, &Self::schema(), &self.to_value())
    }

    /// Saves the config whole or not at all; the extension of `path` gives the format.
    ///
    /// # Errors
    /// As [`ModelConfig::to_text`], or when the file cannot be written.
    fn save(&self, path: impl AsRef<Path>) -> Result<(), ConfigError> {
        let path = path.as_ref();
        let text = self.to_text(Format::of(path)?)?;
        Ok(write_whole(path, text)?)
    }

    /// The JSON Schema (draft 2020-12) of the documents that [`ModelConfig::from_document`] reads.
    fn json_schema() -> Value {
        json_schema::of(&Self::schema())
    }

    /// The SHA-256 of the values, as 64 hexadecimal digits: equal configs, equal hashes, on every
    /// machine.
    ///
    /// It covers the names and values of all fields, defaults included, sorted by name. It does not depend
    /// on the order of the fields, the name of the Rust type, or how a file was formatted.
    fn stable_hash(&self) -> String {
        hash::sha256(&self.to_node())
    }
}
