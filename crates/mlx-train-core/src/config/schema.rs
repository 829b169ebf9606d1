//! What a config is made of: its fields with types, defaults, ranges and docs.

use super::{preset::Preset, range::Range, suggest::quoted};
use serde_json::Value;
use std::fmt;

/// The fields of a config.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Schema {
    /// The name of the struct.
    pub name: &'static str,
    /// Its doc comment.
    pub docs: &'static str,
    /// Its fields, in the order of their declaration.
    pub fields: Vec<FieldSchema>,
    /// The names that a document may give as `preset`.
    pub presets: Vec<&'static str>,
}

/// One field of a config.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FieldSchema {
    /// The key in files.
    pub name: &'static str,
    /// Its doc comment.
    pub docs: &'static str,
    /// Its type.
    pub ty: FieldType,
    /// Its default; null for an [`Option`] that is none.
    pub default: Value,
    /// The numbers that it may be; for an [`Option`], [`Vec`] or array, those that it may hold.
    pub range: Option<Range>,
}

/// The type of a field; it displays as `i32`, `list of f32`, `string or null`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FieldType {
    /// An integer of Rust's type `name`, from `min` to `max`.
    Integer {
        /// `i32`, `usize`, …
        name: &'static str,
        /// Its smallest value.
        min: i128,
        /// Its largest value.
        max: i128,
    },
    /// A finite float of Rust's type `name`.
    Float {
        /// `f32` or `f64`.
        name: &'static str,
    },
    /// `true` or `false`.
    Boolean,
    /// A string.
    String,
    /// A path of the file system, as a string.
    Path,
    /// A value or null.
    Optional(Box<Self>),
    /// Any number of values.
    List(Box<Self>),
    /// This many values.
    Array(Box<Self>, usize),
    /// One of several names, some of them with fields.
    Enum(EnumSchema),
    /// A value of one of several types, such as a name or a list.
    Either(Vec<Self>),
    /// A nested config.
    Config(Schema),
}

/// The variants of an enum.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EnumSchema {
    /// The name of the enum.
    pub name: &'static str,
    /// Its doc comment.
    pub docs: &'static str,
    /// Its variants, in the order of their declaration.
    pub variants: Vec<VariantSchema>,
}

/// One variant of an enum.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VariantSchema {
    /// The name in files.
    pub name: &'static str,
    /// Its doc comment.
    pub docs: &'static str,
    /// Its fields, beside `kind` in a table; none for a plain name.
    pub fields: Vec<FieldSchema>,
}

/// The lines of a doc comment up to the first empty one: all that a listing has room for.
pub(crate) fn first_paragraph(docs: &str) -> impl Iterator<Item = &str> {
    docs.trim().lines().map(str::trim).take_while(|line| !line.is_empty())
}

impl Schema {
    #[doc(hidden)]
    pub fn new<C>(
        name: &'static str,
        docs: &'static str,
        fields: Vec<FieldSchema>,
        presets: &[Preset<C>],
    ) -> Self {
        Self { name, docs, fields, presets: presets.iter().map(|preset| preset.name).collect() }
    }

    /// The field with the key `name`.
    pub fn field(&self, name: &str) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl EnumSchema {
    #[doc(hidden)]
    pub fn new(name: &'static str, docs: &'static str, variants: Vec<VariantSchema>) -> Self {
        Self { name, docs, variants }
    }

    /// Whether a variant has fields.
    pub fn has_data(&self) -> bool {
        self.variants.iter().any(|variant| !variant.fields.is_empty())
    }

    pub(crate) fn names(&self) -> String {
        quoted(&self.variants.iter().map(|variant| variant.name).collect::<Vec<_>>())
    }
}

impl VariantSchema {
    #[doc(hidden)]
    pub fn new(name: &'static str, docs: &'static str, fields: Vec<FieldSchema>) -> Self {
        Self { name, docs, fields }
    }
}

impl FieldType {
    /// Whether a string can be a value of this type.
    pub(crate) fn takes_strings(&self) -> bool {
        match self {
            Self::String | Self::Path | Self::Enum(_) => true,
            Self::Optional(ty) => ty.takes_strings(),
            Self::Either(types) => types.iter().any(Self::takes_strings),
            _ => false,
        }
    }

    /// What a value must be, for messages.
    pub(crate) fn expectation(&self) -> String {
        match self {
            Self::Integer { .. } => "an integer".to_owned(),
            Self::Float { .. } => "a number".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::String => "a string".to_owned(),
            Self::Path => "a path, as a string".to_owned(),
            Self::Optional(ty) => format!("{} or null", ty.expectation()),
            Self::List(_) => format!("a {self}"),
            Self::Array(ty, length) => format!("a list of {length} {ty}"),
            Self::Enum(schema) => format!("one of {}", schema.names()),
            Self::Either(types) => {
                types.iter().map(Self::expectation).collect::<Vec<_>>().join(", or ")
            }
            Self::Config(schema) => format!("a table with the keys of {}", schema.name),
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { name, .. } | Self::Float { name } => f.write_str(name),
            Self::Boolean => f.write_str("bool"),
            Self::String => f.write_str("string"),
            Self::Path => f.write_str("path"),
            Self::Optional(ty) => write!(f, "{ty} or null"),
            Self::List(ty) => write!(f, "list of {ty}"),
            Self::Array(ty, length) => write!(f, "list of {length} {ty}"),
            Self::Enum(schema) => {
                let names: Vec<&str> = schema.variants.iter().map(|variant| variant.name).collect();
                f.write_str(&names.join(" | "))
            }
            Self::Either(types) => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                f.write_str(&types.join(" | "))
            }
            Self::Config(schema) => f.write_str(schema.name),
        }
    }
}
