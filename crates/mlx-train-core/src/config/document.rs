//! A parsed file or text, before it becomes a config.

use super::{
    ConfigError, Format, Problem, file, format,
    node::{Entry, Kind, Node, Origin},
    overrides,
    suggest::{hint, shorten},
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// A parsed TOML, JSON or YAML text that remembers the line and column of every value.
///
/// ```
/// # use mlx_train_core::config::{Document, Format, ModelConfig};
/// # #[derive(Debug, Clone, ModelConfig)]
/// # struct Sizes {
/// #     #[config(default = 8, range = 1..)]
/// #     hidden_size: i32,
/// # }
/// let mut document = Document::parse("[model]\nhidden_size = 0", Format::Toml)?;
/// document.expect_sections(&["model", "train"])?;
/// let model = document.section("model").unwrap_or_default();
/// assert_eq!(
///     Sizes::from_document(&model).unwrap_err().to_string(),
///     "TOML:2:15: `model.hidden_size` is 0, but must be at least 1"
/// );
/// document.set("model.hidden_size=16")?;
/// let model = document.section("model").unwrap_or_default();
/// assert_eq!(Sizes::from_document(&model)?.hidden_size, 16);
/// # Ok::<(), mlx_train_core::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Document {
    root: Node,
    /// The keys that lead to the root in its file.
    path: String,
}

impl Document {
    /// Reads a file; its extension (`.toml`, `.json`, `.yaml`, `.yml`) gives the format.
    ///
    /// # Errors
    /// When the file cannot be read, is no text, is larger than 16 MiB, or is malformed.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let format = Format::of(path)?;
        let text = file::read_text(path)?;
        Self::read(&text, format, Origin::File(path.to_owned()))
    }

    /// Parses a text.
    ///
    /// # Errors
    /// When it is malformed, nests too deeply, repeats a key, or is larger than 16 MiB.
    pub fn parse(text: &str, format: Format) -> Result<Self, ConfigError> {
        Self::read(text, format, Origin::Text(format.name()))
    }

    fn read(text: &str, format: Format, origin: Origin) -> Result<Self, ConfigError> {
        let root = format::read(text, format, &Arc::new(origin))?;
        Ok(Self { root, path: String::new() })
    }

    /// A document from a JSON value that a program made; TOML values convert with [`From`].
    pub fn from_value(value: Value) -> Self {
        Self { root: Node::from_json(value), path: String::new() }
    }

    /// Sets a value by `key.path=value`, for example `optimizer.lr=1e-3`.
    ///
    /// The value is TOML, `null`, or a string without quotes. Its type is checked when a config is read.
    ///
    /// # Errors
    /// When there is no `=`, the key is empty, or the value is a malformed list, table or string.
    pub fn set(&mut self, text: &str) -> Result<(), ConfigError> {
        Ok(overrides::apply(&mut self.root, text)?)
    }

    /// The part under a key, which keeps its places and the key in messages.
    pub fn section(&self, name: &str) -> Option<Self> {
        let root = self.root.get(name)?.clone();
        Some(Self { root, path: self.path_of(name) })
    }

    /// Takes a string out of the document, for keys that are not part of a config, as `model = "mlp"`.
    ///
    /// # Errors
    /// When the key has a value that is not a string.
    pub fn take_string(&mut self, name: &str) -> Result<Option<String>, ConfigError> {
        let path = self.path_of(name);
        let Kind::Table(entries) = &mut self.root.kind else { return Ok(None) };
        let Some(index) = entries.iter().position(|entry| entry.name == name) else {
            return Ok(None);
        };
        let value = entries.remove(index).value;
        if let Some(text) = value.text() {
            return Ok(Some(text.to_owned()));
        }
        let message = format!("`{path}` is {}, but must be a string", value.kind);
        Err(Problem::new(&path, value.place, message).into())
    }

    /// Refuses a document that has anything but these tables at its top.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every other key, its place and the closest known name; or else
    /// with everything that should be a table and is none.
    pub fn expect_sections(&self, known: &[&str]) -> Result<(), ConfigError> {
        self.expect_known(known)?;
        let subject = |path: &str| match path {
            "" => "the config".to_owned(),
            path => format!("`{path}`"),
        };
        let root = (self.path.clone(), &self.root);
        let sections = self.entries().iter().map(|entry| (self.path_of(&entry.name), &entry.value));
        let problems: Vec<Problem> = std::iter::once(root)
            .chain(sections)
            .filter(|(_, node)| !matches!(node.kind, Kind::Table(_) | Kind::Null))
            .map(|(path, node)| {
                let message = format!("{} is {}, but must be a table", subject(&path), node.kind);
                Problem::new(&path, node.place.clone(), message)
            })
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid { problems, omitted: 0 })
    }

    fn expect_known(&self, known: &[&str]) -> Result<(), ConfigError> {
        let entries = self.entries();
        let unknown = |entry: &&Entry| !known.contains(&entry.name.as_str());
        let problem = |entry: &Entry| {
            let name = shorten(&entry.name);
            let hint = hint(&entry.name, "sections", known);
            let path = self.path_of(&name);
            Problem::new(&path, entry.place.clone(), format!("unknown section `{path}`{hint}"))
        };
        let problems: Vec<Problem> = entries.iter().filter(unknown).take(50).map(problem).collect();
        match problems.len() {
            0 => Ok(()),
            found => {
                let omitted = entries.iter().filter(unknown).count() - found;
                Err(ConfigError::Invalid { problems, omitted })
            }
        }
    }

    /// The keys at the top of the document, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().iter().map(|entry| entry.name.as_str())
    }

    fn entries(&self) -> &[Entry] {
        match &self.root.kind {
            Kind::Table(entries) => entries,
            _ => &[],
        }
    }

    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl From<::toml::Value> for Document {
    fn from(value: ::toml::Value) -> Self {
        Self { root: Node::from_toml(value), path: String::new() }
    }
}
