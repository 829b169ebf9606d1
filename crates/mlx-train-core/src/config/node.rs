//! The tree that every format is read into: values that remember where they stand.

use super::suggest::shorten;
use serde_json::{Map, Number, Value};
use std::{fmt, path::PathBuf, sync::Arc};

/// Where a value was written: a file or text with line and column, or an override.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    origin: Option<Arc<Origin>>,
    line: usize,
    column: usize,
}

/// What a tree was read from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File(PathBuf),
    /// A text in memory, by the name of its format.
    Text(&'static str),
    Override(String),
}

impl Place {
    /// A `line` and `column`, both from one, of `origin`.
    pub(crate) fn new(origin: &Arc<Origin>, line: usize, column: usize) -> Self {
        Self { origin: Some(origin.clone()), line, column }
    }

    /// The whole of `origin`.
    pub(crate) fn whole(origin: &Arc<Origin>) -> Self {
        Self::new(origin, 0, 0)
    }

    /// Whether the value was written somewhere, and not made by a program.
    pub fn is_known(&self) -> bool {
        self.origin.is_some()
    }

    /// Line and column, both from one, where the origin has lines.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        (self.line > 0).then_some((self.line, self.column))
    }

    pub(crate) fn is_override(&self) -> bool {
        matches!(self.origin.as_deref(), Some(Origin::Override(_)))
    }

    pub(crate) fn without_position(&self) -> Self {
        Self { line: 0, column: 0, ..self.clone() }
    }
}

/// `run.toml:3:1`, or ``override `hidden_size=x` ``; empty when unknown.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin.as_deref() {
            None => return Ok(()),
            Some(Origin::File(path)) => write!(f, "{}", path.display())?,
            Some(Origin::Text(format)) => f.write_str(format)?,
            Some(Origin::Override(text)) => write!(f, "override `{}`", shorten(text))?,
        }
        match self.line_and_column() {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// A value and where it stands.
#[doc(hidden)]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// The text of an unquoted override, which a string field takes as it is: `name=5`.
    pub(crate) bare: Option<Box<str>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Kind {
    #[default]
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Date(String),
    String(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table, where it stands, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(kind: Kind, place: Place) -> Self {
        Self { kind, place, bare: None }
    }

    /// A table of values that a program made.
    pub fn table<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let entry = |(name, value): (&str, Self)| Entry {
            name: name.to_owned(),
            place: Place::default(),
            value,
        };
        Kind::Table(entries.into_iter().map(entry).collect()).into()
    }

    /// A string that a program made.
    pub fn string(text: &str) -> Self {
        Kind::String(text.to_owned()).into()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Table(entries) => entries.iter().find(|e| e.name == name).map(|e| &e.value),
            _ => None,
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(_))
    }

    /// The string, or the text of an unquoted override.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => self.bare.as_deref(),
        }
    }

    pub(crate) fn from_json(value: Value) -> Self {
        match value {
            Value::Null => Kind::Null,
            Value::Bool(value) => Kind::Bool(value),
            Value::Number(number) => from_number(&number),
            Value::String(text) => Kind::String(text),
            Value::Array(items) => Kind::List(items.into_iter().map(Self::from_json).collect()),
            Value::Object(map) => Kind::Table(map.into_iter().map(from_member).collect()),
        }
        .into()
    }

    pub(crate) fn from_toml(value: ::toml::Value) -> Self {
        use ::toml::Value as Toml;
        match value {
            Toml::Boolean(value) => Kind::Bool(value),
            Toml::Integer(value) => Kind::Int(value.into()),
            Toml::Float(value) => Kind::Float(value),
            Toml::Datetime(date) => Kind::Date(date.to_string()),
            Toml::String(text) => Kind::String(text),
            Toml::Array(items) => Kind::List(items.into_iter().map(Self::from_toml).collect()),
            Toml::Table(table) => Kind::Table(
                table
                    .into_iter()
                    .map(|(name, value)| Entry {
                        name,
                        place: Place::default(),
                        value: Self::from_toml(value),
                    })
                    .collect(),
            ),
        }
        .into()
    }

    pub(crate) fn into_json(self) -> Value {
        match self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(value),
            Kind::Int(value) => Number::from_i128(value).map_or(Value::Null, Value::Number),
            Kind::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
            Kind::Date(text) | Kind::String(text) => Value::String(text),
            Kind::List(items) => Value::Array(items.into_iter().map(Self::into_json).collect()),
            Kind::Table(entries) => Value::Object(
                entries.into_iter().map(|e| (e.name, e.value.into_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl From<Kind> for Node {
    fn from(kind: Kind) -> Self {
        Self::new(kind, Place::default())
    }
}

fn from_number(number: &Number) -> Kind {
    match (number.as_i128(), number.as_f64()) {
        (Some(value), _) => Kind::Int(value),
        (None, Some(value)) => Kind::Float(value),
        (None, None) => Kind::Null,
    }
}

fn from_member((name, value): (String, Value)) -> Entry {
    Entry { name, place: Place::default(), value: Node::from_json(value) }
}

/// What a value is, for messages: `the string "x"`, `the integer 5`, `a table`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "the boolean {value}"),
            Self::Int(value) => write!(f, "the integer {value}"),
            Self::Float(value) => write!(f, "the float {value:?}"),
            Self::Date(text) => write!(f, "the date {text}"),
            Self::String(text) => write!(f, "the string \"{}\"", shorten(text)),
            Self::List(items) => write!(f, "a list of {}", items.len()),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}
