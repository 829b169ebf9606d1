//! Where a config comes from: what `build` of the registry takes.

use super::{ConfigError, Document, ModelConfig};
use std::any::{Any, type_name};

/// Where the config of a model comes from: its defaults, a value of its type, or a document; and
/// overrides on top.
#[derive(Debug, Default)]
pub struct ConfigSource {
    base: Base,
    overrides: Vec<String>,
}

#[derive(Debug, Default)]
enum Base {
    #[default]
    Default,
    Typed {
        config: Box<dyn Any>,
        type_name: &'static str,
    },
    Document(Document),
}

impl ConfigSource {
    /// A value of the config type.
    pub fn typed<C: ModelConfig>(config: C) -> Self {
        Base::Typed { config: Box::new(config), type_name: type_name::<C>() }.into()
    }

    /// What the derive makes of a reference.
    #[doc(hidden)]
    pub fn typed_ref<C: ModelConfig>(config: &C) -> Self {
        Self::typed(config.clone())
    }

    /// A parsed document.
    pub fn document(document: Document) -> Self {
        Base::Document(document).into()
    }

    /// Adds `key.path=value` overrides, which win over what was there.
    #[must_use]
    pub fn with_overrides<S: Into<String>>(
        mut self,
        overrides: impl IntoIterator<Item = S>,
    ) -> Self {
        self.overrides.extend(overrides.into_iter().map(Into::into));
        self
    }

    /// The config, checked.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] when a typed config is of another type; [`ConfigError::Invalid`] when
    /// a value is refused.
    pub fn resolve<C: ModelConfig>(self) -> Result<C, ConfigError> {
        match self.base {
            Base::Default => C::default().with_overrides(self.overrides),
            Base::Typed { config, type_name: found } => match config.downcast::<C>() {
                Ok(config) => config.with_overrides(self.overrides),
                Err(_) => Err(ConfigError::WrongType { expected: type_name::<C>(), found }),
            },
            Base::Document(mut document) => {
                self.overrides.iter().try_for_each(|text| document.set(text))?;
                C::from_document(&document)
            }
        }
    }
}

impl From<Base> for ConfigSource {
    fn from(base: Base) -> Self {
        Self { base, overrides: Vec::new() }
    }
}

/// What a model can be built from: a config of its type (also by reference), a JSON or TOML value, a
/// [`Document`], overrides as `["hidden_size=128"]`, or `()` for the defaults.
#[diagnostic::on_unimplemented(
    message = "a model cannot be built from a `{Self}`",
    label = "not a config",
    note = "pass a config that derives `ModelConfig`, a JSON or TOML value, a `Document`, \
            overrides as `[\"hidden_size=128\"]`, or `()` for the defaults"
)]
pub trait IntoConfigSource {
    /// The source; values are checked when it is resolved.
    fn into_config_source(self) -> ConfigSource;
}

impl IntoConfigSource for ConfigSource {
    fn into_config_source(self) -> ConfigSource {
        self
    }
}

impl IntoConfigSource for () {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::default()
    }
}

impl IntoConfigSource for Document {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::document(self)
    }
}

impl IntoConfigSource for &Document {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::document(self.clone())
    }
}

impl IntoConfigSource for serde_json::Value {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::document(Document::from_value(self))
    }
}

impl IntoConfigSource for ::toml::Value {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::document(self.into())
    }
}

impl IntoConfigSource for ::toml::Table {
    fn into_config_source(self) -> ConfigSource {
        ::toml::Value::Table(self).into_config_source()
    }
}

impl<const N: usize> IntoConfigSource for [&str; N] {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::default().with_overrides(self)
    }
}

impl IntoConfigSource for &[&str] {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::default().with_overrides(self.iter().copied())
    }
}

impl IntoConfigSource for &[String] {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::default().with_overrides(self.iter().cloned())
    }
}

impl IntoConfigSource for Vec<String> {
    fn into_config_source(self) -> ConfigSource {
        ConfigSource::default().with_overrides(self)
    }
}
