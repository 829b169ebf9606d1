//! Everything about a model for a reader: as text, as JSON.

use super::ModelEntry;
use crate::config::{FieldSchema, FieldType, Schema, first_paragraph};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// What there is to know about a model without building it.
///
/// It displays as text for a terminal, and serializes for other programs.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// The name to look it up by.
    pub name: &'static str,
    /// Further names.
    pub aliases: &'static [&'static str],
    /// Words to list it by.
    pub tags: &'static [&'static str],
    /// What it is, in Markdown.
    pub description: &'static str,
    /// The struct, with its module.
    pub type_path: &'static str,
    /// The source file, as the compiler was called with it.
    pub file: &'static str,
    /// The line in the file, from one.
    pub line: u32,
    /// The type of the config, with its module.
    pub config_type: &'static str,
    /// What a config may give as `preset`.
    pub presets: Vec<&'static str>,
    /// The fields of the config; those of a nested one under their paths.
    pub fields: Vec<FieldDescription>,
    /// The JSON Schema of the config.
    pub json_schema: Value,
}

/// One field of a config.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FieldDescription {
    /// Where it stands: `hidden_size`, `rope.theta`.
    pub path: String,
    /// Its type, as `i32`, `list of f32`, `string or null`, `gelu | relu`.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its default.
    pub default: Value,
    /// The numbers that it may be, as Rust writes them: `0.0..1.0`; nothing for all.
    pub range: Option<String>,
    /// Its doc comment.
    pub docs: &'static str,
}

impl Description {
    pub(super) fn new(entry: &ModelEntry) -> Self {
        let schema = entry.schema();
        let (file, line) = entry.location();
        let mut fields = Vec::new();
        describe(&schema, "", None, &mut fields);
        Self {
            name: entry.name(),
            aliases: entry.aliases(),
            tags: entry.tags(),
            description: entry.description(),
            type_path: entry.type_path(),
            file,
            line,
            config_type: entry.config_type(),
            presets: schema.presets,
            fields,
            json_schema: entry.json_schema(),
        }
    }
}

/// Adds the fields of `schema`, which stand under `prefix`; `defaults` of the config around them
/// replace their own.
fn describe(
    schema: &Schema,
    prefix: &str,
    defaults: Option<&Value>,
    fields: &mut Vec<FieldDescription>,
) {
    for field in &schema.fields {
        let default = defaults.and_then(|defaults| defaults.get(field.name));
        describe_field(field, prefix, default.unwrap_or(&field.default), fields);
    }
}

fn describe_field(
    field: &FieldSchema,
    prefix: &str,
    default: &Value,
    fields: &mut Vec<FieldDescription>,
) {
    let path = format!("{prefix}{}", field.name);
    let inside = format!("{path}.");
    if let FieldType::Config(schema) = &field.ty {
        return describe(schema, &inside, Some(default), fields);
    }
    fields.push(FieldDescription {
        path,
        ty: field.ty.to_string(),
        default: default.clone(),
        range: field.range.as_ref().map(ToString::to_string),
        docs: field.docs,
    });
    match &field.ty {
        FieldType::Optional(ty) if let FieldType::Config(schema) = &**ty => {
            describe(schema, &inside, Some(default), fields);
        }
        FieldType::Enum(schema) => {
            for field in schema.variants.iter().flat_map(|variant| &variant.fields) {
                let default = default.get(field.name).unwrap_or(&field.default);
                describe_field(field, &inside, default, fields);
            }
        }
        _ => {}
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        if !self.description.is_empty() {
            writeln!(f, "\n{}", self.description)?;
        }
        let source = format!("{}:{}", self.file, self.line);
        let facts = [
            ("aliases", self.aliases.join(", ")),
            ("tags", self.tags.join(", ")),
            ("type", self.type_path.to_owned()),
            ("source", source),
            ("config", self.config_type.to_owned()),
            ("presets", self.presets.join(", ")),
        ];
        let facts = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
        writeln!(f)?;
        columns(f, &facts.map(|(name, fact)| [name.to_owned(), fact]).collect::<Vec<_>>())?;
        if self.fields.is_empty() {
            return Ok(());
        }
        let header = ["field", "type", "default", "range", "meaning"].map(str::to_owned);
        let rows = self.fields.iter().map(|field| {
            [
                field.path.clone(),
                field.ty.clone(),
                field.default.to_string(),
                field.range.clone().unwrap_or_default(),
                summary(field.docs),
            ]
        });
        writeln!(f)?;
        columns(f, &[header].into_iter().chain(rows).collect::<Vec<_>>())
    }
}

/// What a doc comment says first, on one line.
pub(super) fn summary(docs: &str) -> String {
    first_paragraph(docs).collect::<Vec<_>>().join(" ")
}

/// Writes rows with aligned columns, two spaces apart.
fn columns<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
