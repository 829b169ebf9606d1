//! TOML: read with the spans of the `toml` crate; written with the docs of the fields as comments.

use super::{DEEPEST, SyntaxError, lines::Lines, quote::quote};
use crate::config::{
    ConfigError, first_paragraph,
    node::{Entry, Kind, Node, Origin, Place},
    schema::{EnumSchema, FieldSchema, FieldType, Schema},
    table::TAG,
};
use serde_json::Value;
use std::{fmt::Write, ops::Range, sync::Arc};
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

pub(super) fn read(text: &str, origin: &Arc<Origin>) -> Result<Node, SyntaxError> {
    let lines = Lines::new(text, origin);
    let place = |span: Range<usize>| lines.place(span.start);
    let table = DeTable::parse(text).map_err(|error| {
        SyntaxError::new(place(error.span().unwrap_or(0..0)), one_line(error.message()))
    })?;
    Ok(Node::new(table_kind(table.into_inner(), 0, &place)?, lines.place(0)))
}

/// Reads a single value, as an override has it.
pub(crate) fn read_value(text: &str, place: &Place) -> Result<Node, String> {
    let value = DeValue::parse(text).map_err(|error| one_line(error.message()))?;
    to_node(value, 0, &|_| place.clone()).map_err(|error| error.message)
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

type PlaceOf<'a> = &'a dyn Fn(Range<usize>) -> Place;

fn to_node(value: Spanned<DeValue>, depth: usize, place: PlaceOf) -> Result<Node, SyntaxError> {
    let at = place(value.span());
    if depth > DEEPEST {
        return Err(SyntaxError::too_deep(at));
    }
    let kind = match value.into_inner() {
        DeValue::String(text) => Kind::String(text.into_owned()),
        DeValue::Integer(integer) => match parse_integer(&integer) {
            Some(value) => Kind::Int(value),
            None => return Err(SyntaxError::new(at, format!("{integer} is too large an integer"))),
        },
        DeValue::Float(float) => Kind::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Kind::Bool(value),
        DeValue::Datetime(date) => Kind::Date(date.to_string()),
        DeValue::Array(items) => Kind::List(
            items
                .into_iter()
                .map(|item| to_node(item, depth + 1, place))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => table_kind(table, depth, place)?,
    };
    Ok(Node::new(kind, at))
}

fn table_kind(table: DeTable, depth: usize, place: PlaceOf) -> Result<Kind, SyntaxError> {
    let mut sorted: Vec<_> = table.into_iter().collect();
    // The parser sorts by name; problems and sections are told in the order of the file.
    sorted.sort_by_key(|(key, _)| key.span().start);
    let entries = sorted.into_iter().map(|(key, value)| {
        let place_of_key = place(key.span());
        let value = to_node(value, depth + 1, place)?;
        Ok(Entry { name: key.into_inner().into_owned(), place: place_of_key, value })
    });
    Ok(Kind::Table(entries.collect::<Result<_, _>>()?))
}

fn parse_integer(integer: &DeInteger) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A whole file.
pub(super) fn write(schema: &Schema, value: &Value) -> Result<String, ConfigError> {
    let mut out = String::new();
    write_comment(&mut out, schema.docs);
    if !out.is_empty() {
        out.push('\n');
    }
    let no_default = Value::Null;
    Writer { out, path: Vec::new() }.finish(&schema.fields, value, &no_default)
}

/// A part of a file, under `[section]`.
pub(crate) fn write_section(
    section: &str,
    schema: &Schema,
    value: &Value,
) -> Result<String, ConfigError> {
    let mut out = String::new();
    write_comment(&mut out, schema.docs);
    let _ = writeln!(out, "[{}]", key(section));
    Writer { out, path: vec![section.to_owned()] }.finish(&schema.fields, value, &Value::Null)
}

struct Writer {
    out: String,
    path: Vec<String>,
}

impl Writer {
    fn finish(
        mut self,
        fields: &[FieldSchema],
        value: &Value,
        default: &Value,
    ) -> Result<String, ConfigError> {
        self.table(fields, value, default)?;
        Ok(self.out)
    }

    /// Nested configs come last: what follows a `[header]` belongs to it.
    fn table(
        &mut self,
        fields: &[FieldSchema],
        table: &Value,
        default: &Value,
    ) -> Result<(), ConfigError> {
        let nested = |field: &&FieldSchema| nested_schema(field, table).is_some();
        for field in fields.iter().filter(|field| !nested(field)) {
            self.path.push(field.name.to_owned());
            self.field(field, &table[field.name], default_of(field, default))?;
            self.path.pop();
        }
        for field in fields {
            let Some(schema) = nested_schema(field, table) else { continue };
            self.path.push(field.name.to_owned());
            self.out.push('\n');
            write_comment(
                &mut self.out,
                if field.docs.is_empty() { schema.docs } else { field.docs },
            );
            let header = self.path.iter().map(|name| key(name)).collect::<Vec<_>>().join(".");
            let _ = writeln!(self.out, "[{header}]");
            self.table(&schema.fields, &table[field.name], default_of(field, default))?;
            self.path.pop();
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &FieldSchema,
        value: &Value,
        default: &Value,
    ) -> Result<(), ConfigError> {
        write_comment(&mut self.out, field.docs);
        let range = field.range.as_ref().map(|range| format!(", {range}")).unwrap_or_default();
        let shown = self.inline(&field.ty, default, default)?.unwrap_or_else(|| "none".to_owned());
        let _ = writeln!(self.out, "# ({}{range}, default {shown})", field.ty);
        let _ = match self.inline(&field.ty, value, default)? {
            Some(text) => writeln!(self.out, "{} = {text}", key(field.name)),
            // Leaving the key out means the default, which is null.
            None => writeln!(self.out, "# {} =", key(field.name)),
        };
        Ok(())
    }

    /// A value on one line; `None` where null is said by leaving the key out.
    fn inline(
        &self,
        ty: &FieldType,
        value: &Value,
        default: &Value,
    ) -> Result<Option<String>, ConfigError> {
        Ok(Some(match (ty, value) {
            (FieldType::Optional(_), Value::Null) if default.is_null() => return Ok(None),
            (FieldType::Optional(ty), Value::Null) if !ty.takes_strings() => quote("null"),
            (_, Value::Null) => return Err(ConfigError::NoNull { path: self.path.join(".") }),
            (FieldType::Optional(ty), _) => return self.inline(ty, value, default),
            (FieldType::List(ty) | FieldType::Array(ty, _), Value::Array(items)) => {
                self.inline_list(ty, items)?
            }
            (FieldType::Config(schema), _) => {
                self.inline_table(None, &schema.fields, value, default)?
            }
            (FieldType::Enum(schema), Value::Object(_)) => {
                self.inline_variant(schema, value, default)?
            }
            (_, Value::String(text)) => quote(text),
            (_, Value::Number(number)) if number.is_f64() => {
                format!("{:?}", number.as_f64().unwrap_or_default())
            }
            _ => value.to_string(),
        }))
    }

    fn inline_list(&self, ty: &FieldType, items: &[Value]) -> Result<String, ConfigError> {
        // An element has no key to leave out, so null is always said in words.
        let never_left_out = Value::Bool(true);
        let items = items.iter().map(|item| self.inline(ty, item, &never_left_out));
        let items: Vec<_> = items.collect::<Result<_, _>>()?;
        Ok(format!("[{}]", items.into_iter().flatten().collect::<Vec<_>>().join(", ")))
    }

    fn inline_variant(
        &self,
        schema: &EnumSchema,
        value: &Value,
        default: &Value,
    ) -> Result<String, ConfigError> {
        let tag = value[TAG].as_str().unwrap_or_default();
        let variant = schema.variants.iter().find(|variant| variant.name == tag);
        let fields = variant.map_or(&[][..], |variant| &variant.fields);
        let same_variant = default[TAG] == value[TAG];
        let default = if same_variant { default } else { &Value::Null };
        self.inline_table(Some(tag), fields, value, default)
    }

    fn inline_table(
        &self,
        tag: Option<&str>,
        fields: &[FieldSchema],
        value: &Value,
        default: &Value,
    ) -> Result<String, ConfigError> {
        let mut pairs: Vec<String> =
            tag.map(|tag| format!("{TAG} = {}", quote(tag))).into_iter().collect();
        for field in fields {
            let inline = self.inline(&field.ty, &value[field.name], default_of(field, default))?;
            pairs.extend(inline.map(|text| format!("{} = {text}", key(field.name))));
        }
        Ok(format!("{{ {} }}", pairs.join(", ")))
    }
}

/// The schema of a field that is written as a table of its own.
fn nested_schema<'a>(field: &'a FieldSchema, table: &Value) -> Option<&'a Schema> {
    let ty = match &field.ty {
        FieldType::Optional(ty) => ty,
        ty => ty,
    };
    match ty {
        FieldType::Config(schema) if table[field.name].is_object() => Some(schema),
        _ => None,
    }
}

/// The value that leaving out `field` means, in a table that is `default` if it is left out.
fn default_of<'a>(field: &'a FieldSchema, default: &'a Value) -> &'a Value {
    default.get(field.name).unwrap_or(&field.default)
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quote(name) }
}

/// The first paragraph of a doc comment; the JSON Schema has all of it.
fn write_comment(out: &mut String, docs: &str) {
    for line in first_paragraph(docs) {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(out, "{}", format!("# {line}").trim_end());
    }
}
