//! Why a model was not found.

use super::ModelEntry;
use std::fmt::{self, Write};

/// How many names the error about an unknown one lists.
const MAX_LISTED: usize = 20;

/// Why a look-up or the build of a model was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No model has this name or alias.
    #[error("{}", unknown(.name, .close, .known))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The names and aliases that look like it, the closest first.
        close: Vec<&'static str>,
        /// The names of all models, in natural order.
        known: Vec<&'static str>,
    },
    /// More than one model has one name.
    #[error("{}", .0.iter().map(NameClash::to_string).collect::<Vec<_>>().join("\n"))]
    NameClash(Vec<NameClash>),
    /// The pattern of a listing is malformed.
    #[error(
        "`{pattern}` is not a pattern of model names; write `*` for all, or a glob such as `trans*` or `tag:vision`"
    )]
    Pattern {
        /// What was asked for.
        pattern: String,
        /// What is wrong with the glob; nothing when it is empty.
        source: Option<globset::Error>,
    },
    /// The config is one of another model.
    #[error(
        "model `{model}` is built from a `{expected}`, but was given a `{found}`; \
         pass the former, or get the model of the latter"
    )]
    WrongConfig {
        /// The name of the model.
        model: &'static str,
        /// The type of its config.
        expected: &'static str,
        /// The type of the config that was passed.
        found: &'static str,
    },
    /// The model is of another type.
    #[error(
        "model `{model}` is a `{registered}`, not a `{asked}`; ask for that type, or use `build`"
    )]
    WrongModel {
        /// The name of the model.
        model: &'static str,
        /// The type that is registered.
        registered: &'static str,
        /// The type that was asked for.
        asked: &'static str,
    },
}

/// A name that more than one model has.
#[derive(Debug, Clone)]
pub struct NameClash {
    name: &'static str,
    entries: Vec<&'static ModelEntry>,
}

impl NameClash {
    pub(super) fn new(name: &'static str, entries: Vec<&'static ModelEntry>) -> Self {
        Self { name, entries }
    }

    /// The name or alias.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The models that have it.
    pub fn entries(&self) -> &[&'static ModelEntry] {
        &self.entries
    }
}

impl fmt::Display for NameClash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, entries } = self;
        write!(f, "{} models are registered as `{name}`:", entries.len())?;
        for entry in entries {
            let (file, line) = entry.location();
            write!(f, "\n  `{}` at {file}:{line}", entry.type_path())?;
            if entry.name() != *name {
                write!(f, ", an alias of `{}`", entry.name())?;
            }
        }
        f.write_str(
            "\nrename all but one in `#[register_model(…)]`, or link only one of their crates",
        )
    }
}

fn unknown(name: &str, close: &[&str], known: &[&str]) -> String {
    let mut text = format!("no model is named `{}`", name.escape_debug());
    if !close.is_empty() {
        _ = write!(text, "; did you mean `{}`?", close.join("` or `"));
    }
    if known.is_empty() {
        text.push_str("\nno model is registered at all");
    } else {
        let listed = &known[..known.len().min(MAX_LISTED)];
        _ = write!(text, "\nregistered: `{}`", listed.join("`, `"));
    }
    if known.len() > MAX_LISTED {
        _ = write!(text, " and {} more", known.len() - MAX_LISTED);
    }
    text.push_str(
        "\na model is registered once its crate is linked: if it is in another crate, \
         write `use that_crate as _;` in yours",
    );
    text
}
