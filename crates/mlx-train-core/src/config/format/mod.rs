//! The formats of config files: each reads a text into a tree with places, and writes a value.

mod json;
mod lines;
mod quote;
mod toml;
mod yaml;

use super::{
    ConfigError,
    file::LARGEST_MIB,
    node::{Node, Origin, Place},
    schema::Schema,
};
use serde_json::Value;
use std::{fmt, path::Path, sync::Arc};

pub(crate) use toml::{read_value as parse_toml_value, write_section as write_toml_section};

/// Values that nest deeper are refused before they can exhaust the stack.
const DEEPEST: usize = 64;

/// A format of config files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// <https://toml.io>, version 1.1.
    Toml,
    /// <https://www.json.org>.
    Json,
    /// <https://yaml.org>, version 1.2, core schema, without aliases and tags.
    Yaml,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Toml, Self::Json, Self::Yaml];

    /// The format of a file, by its extension: `.toml`, `.json`, `.yaml`, `.yml`, in any case.
    ///
    /// # Errors
    /// [`ConfigError::Extension`] for any other.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "toml" => Ok(Self::Toml),
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            _ => Err(ConfigError::Extension(path.to_owned())),
        }
    }

    /// `TOML`, `JSON` or `YAML`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Toml => "TOML",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is malformed, and where.
struct SyntaxError {
    place: Place,
    message: String,
}

impl SyntaxError {
    fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }

    fn too_deep(place: Place) -> Self {
        Self::new(place, format!("it nests more than {DEEPEST} deep"))
    }

    fn repeated_key(place: Place, name: &str) -> Self {
        let name = super::suggest::shorten(name);
        Self::new(place, format!("the key `{name}` is given twice; keep one"))
    }
}

/// Reads a text of `origin` into a tree.
pub(crate) fn read(text: &str, format: Format, origin: &Arc<Origin>) -> Result<Node, ConfigError> {
    if text.len() > LARGEST_MIB << 20 {
        let origin = Place::whole(origin);
        return Err(ConfigError::TooLarge { origin, limit_mib: LARGEST_MIB });
    }
    // Some editors put a byte order mark before the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let result = match format {
        Format::Toml => toml::read(text, origin),
        Format::Json => json::read(text, origin),
        Format::Yaml => yaml::read(text, origin),
    };
    result.map_err(|SyntaxError { place, message }| ConfigError::Syntax { place, format, message })
}

/// Writes a checked value of `schema` as the text of a file.
pub(crate) fn write(schema: &Schema, value: &Value, format: Format) -> Result<String, ConfigError> {
    match format {
        Format::Toml => toml::write(schema, value),
        Format::Json => Ok(format!("{value:#}\n")),
        Format::Yaml => Ok(yaml::write(value)),
    }
}
