//! One registered model: what is known about it, and how it is built from any source of a config.

use super::{RegistryError, description::summary};
use crate::{
    Error, Result,
    config::{ConfigError, ConfigSource, Format, IntoConfigSource, ModelConfig, Schema},
    model::{BaseModel, FromConfig},
};
use serde_json::{Map, Value};
use std::{
    any::{TypeId, type_name},
    fmt, iter,
};

/// What `#[register_model(…)]` says about a model, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// The name to look it up by.
    pub name: &'static str,
    /// Further names.
    pub aliases: &'static [&'static str],
    /// Words to list it by.
    pub tags: &'static [&'static str],
    /// What it is, in Markdown.
    pub description: &'static str,
    /// The struct, with its module: `my_crate::net::Net`.
    pub type_path: &'static str,
    /// The source file, as the compiler was called with it.
    pub file: &'static str,
    /// The line in the file, from one.
    pub line: u32,
}

/// A registered model.
pub struct ModelEntry {
    registration: Registration,
    methods: Methods,
}

impl ModelEntry {
    /// The entry of a model type; `#[register_model]` calls this.
    #[doc(hidden)]
    pub const fn new(registration: Registration, methods: Methods) -> Self {
        Self { registration, methods }
    }

    /// The name to look it up by.
    pub fn name(&self) -> &'static str {
        self.registration.name
    }

    /// Further names to look it up by.
    pub fn aliases(&self) -> &'static [&'static str] {
        self.registration.aliases
    }

    /// Words to list it by: `tag:vision`.
    pub fn tags(&self) -> &'static [&'static str] {
        self.registration.tags
    }

    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        iter::once(self.name()).chain(self.aliases().iter().copied())
    }

    /// What the model is, in Markdown: the doc comment of the struct, unless it was registered with another text.
    pub fn description(&self) -> &'static str {
        self.registration.description.trim()
    }

    /// The first paragraph of the description on one line.
    pub fn summary(&self) -> String {
        summary(self.description())
    }

    /// The struct, with its module: `my_crate::net::Net`.
    pub fn type_path(&self) -> &'static str {
        self.registration.type_path
    }

    /// The source file and line of the registration; the path is as the compiler was called with it.
    pub fn location(&self) -> (&'static str, u32) {
        (self.registration.file, self.registration.line)
    }

    /// The type of the config, with its module.
    pub fn config_type(&self) -> &'static str {
        (self.methods.config_type)()
    }

    /// The fields of the config.
    pub fn schema(&self) -> Schema {
        (self.methods.schema)()
    }

    /// The JSON Schema of the config.
    pub fn json_schema(&self) -> Value {
        (self.methods.json_schema)()
    }

    /// Builds the model, with weights drawn as [`FromConfig::from_config`] says.
    ///
    /// `source` is a config of the model's own type, a JSON or TOML value, a
    /// [`Document`](crate::config::Document), overrides (`["hidden_size=128"]`), or `()` for the defaults.
    ///
    /// # Errors
    /// As [`ModelEntry::resolve_config`], and what the model refuses.
    pub fn build(&self, source: impl IntoConfigSource) -> Result<Box<dyn BaseModel>> {
        self.resolve(source)?.build()
    }

    /// Builds the model as its own type `M`.
    ///
    /// # Errors
    /// As [`ModelEntry::build`], and [`RegistryError::WrongModel`] when the model is no `M`.
    pub fn build_as<M: FromConfig + 'static>(&self, source: impl IntoConfigSource) -> Result<M> {
        if self.methods.model_type != TypeId::of::<M>() {
            return Err(RegistryError::WrongModel {
                model: self.name(),
                registered: self.type_path(),
                asked: type_name::<M>(),
            }
            .into());
        }
        let config = source.into_config_source().resolve();
        M::from_config(&config.map_err(|error| self.refused(error))?)
    }

    /// The whole config that `source` stands for, to save with what is built from it.
    ///
    /// # Errors
    /// [`RegistryError::WrongConfig`] when `source` is the config of another model, and what is
    /// wrong with a document or override.
    pub fn resolve_config(&'static self, source: impl IntoConfigSource) -> Result<ResolvedConfig> {
        Ok(ResolvedConfig { entry: self, config: self.resolve(source)? })
    }

    fn resolve(&self, source: impl IntoConfigSource) -> Result<Box<dyn ErasedConfig>> {
        (self.methods.resolve)(source.into_config_source()).map_err(|error| self.refused(error))
    }

    /// Says of a config of the wrong type which model it was passed to.
    fn refused(&self, error: ConfigError) -> Error {
        match error {
            ConfigError::WrongType { expected, found } => {
                RegistryError::WrongConfig { model: self.name(), expected, found }.into()
            }
            other => other.into(),
        }
    }
}

impl fmt::Debug for ModelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelEntry")
            .field("registration", &self.registration)
            .field("config_type", &self.config_type())
            .finish_non_exhaustive()
    }
}

/// A complete config of a model: every field has its value.
pub struct ResolvedConfig {
    entry: &'static ModelEntry,
    config: Box<dyn ErasedConfig>,
}

impl ResolvedConfig {
    /// The model that it is a config of.
    pub fn model(&self) -> &'static ModelEntry {
        self.entry
    }

    /// The fields as JSON, in the order of their declaration.
    pub fn value(&self) -> Value {
        self.config.value()
    }

    /// The section `model` of a run's config: the model's name as `name`, then the fields.
    pub fn to_section(&self) -> Value {
        let mut section = Map::from_iter([("name".to_owned(), self.entry.name().into())]);
        if let Value::Object(fields) = self.value() {
            section.extend(fields);
        }
        section.into()
    }

    /// SHA-256 of the values, as [`ModelConfig::stable_hash`].
    pub fn hash(&self) -> String {
        self.config.hash()
    }

    /// The text of a file that reads back to the same config.
    ///
    /// # Errors
    /// As [`ModelConfig::to_text`].
    pub fn to_text(&self, format: Format) -> Result<String> {
        self.config.text(format)
    }

    /// The text of one `[section]` of a TOML file.
    ///
    /// # Errors
    /// As [`ModelConfig::to_toml_section`].
    pub fn to_toml_section(&self, section: &str) -> Result<String> {
        self.config.toml_section(section)
    }

    /// Builds the model, with weights drawn as [`FromConfig::from_config`] says.
    ///
    /// # Errors
    /// What the model refuses.
    pub fn build(&self) -> Result<Box<dyn BaseModel>> {
        self.config.build()
    }
}

impl fmt::Debug for ResolvedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedConfig")
            .field("entry", &self.entry.name())
            .field("config", &self.value())
            .finish()
    }
}

/// What a model type can do, without the type.
#[doc(hidden)]
pub struct Methods {
    model_type: TypeId,
    config_type: fn() -> &'static str,
    schema: fn() -> Schema,
    json_schema: fn() -> Value,
    resolve: fn(ConfigSource) -> Result<Box<dyn ErasedConfig>, ConfigError>,
}

/// A type that `#[register_model]` may mark, as it is a [`BaseModel`].
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model: it does not implement `BaseModel`",
    label = "needs `impl BaseModel for {Self}`",
    note = "write `forward` and `loss_fn` in an `impl BaseModel` block, and derive `Debug` and `ModuleParameters`"
)]
pub trait RegisteredModel {
    /// For the macro to name.
    const IS_MODEL: () = ();
}

/// A type that `#[register_model]` may mark, as it is built [`FromConfig`].
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be built from a config: it does not implement `FromConfig`",
    label = "needs `impl FromConfig for {Self}`",
    note = "name the config type and write `from_config` in an `impl FromConfig` block; the config derives `ModelConfig`"
)]
pub trait RegisteredBuild {
    /// For the entry.
    const METHODS: Methods;
}

// Without these traits, rustc would list every model that there is, and none of the notes above.
#[diagnostic::do_not_recommend]
impl<M: BaseModel> RegisteredModel for M {}

#[diagnostic::do_not_recommend]
impl<M: FromConfig + 'static> RegisteredBuild for M {
    const METHODS: Methods = Methods {
        model_type: TypeId::of::<M>(),
        config_type: type_name::<M::Config>,
        schema: M::Config::schema,
        json_schema: M::Config::json_schema,
        resolve: |source| Ok(Box::new(ConfigOf::<M>(source.resolve()?))),
    };
}

/// A config that knows its model, without the types of either.
trait ErasedConfig {
    fn value(&self) -> Value;
    fn hash(&self) -> String;
    fn text(&self, format: Format) -> Result<String>;
    fn toml_section(&self, section: &str) -> Result<String>;
    fn build(&self) -> Result<Box<dyn BaseModel>>;
}

struct ConfigOf<M: FromConfig>(M::Config);

impl<M: FromConfig + 'static> ErasedConfig for ConfigOf<M> {
    fn value(&self) -> Value {
        self.0.to_value()
    }

    fn hash(&self) -> String {
        self.0.stable_hash()
    }

    fn text(&self, format: Format) -> Result<String> {
        Ok(self.0.to_text(format)?)
    }

    fn toml_section(&self, section: &str) -> Result<String> {
        Ok(self.0.to_toml_section(section)?)
    }

    fn build(&self) -> Result<Box<dyn BaseModel>> {
        Ok(Box::new(M::from_config(&self.0)?))
    }
}
