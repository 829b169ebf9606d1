//! JSON Schema (draft 2020-12) of the documents that a config reads.

use super::{
    range::Range,
    schema::{EnumSchema, FieldSchema, FieldType, Schema},
    table::{PRESET, TAG},
};
use serde_json::{Map, Value, json};

/// The schema of a whole document.
pub(crate) fn of(schema: &Schema) -> Value {
    let mut root = Map::new();
    root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    root.insert("title".into(), schema.name.into());
    root.extend(table(schema, &Value::Null));
    Value::Object(root)
}

fn table(schema: &Schema, default: &Value) -> Map<String, Value> {
    let mut properties = properties(&schema.fields, default);
    if !schema.presets.is_empty() {
        let description = "Replaces the defaults; other keys override it.";
        let preset =
            json!({ "description": description, "type": "string", "enum": schema.presets });
        properties.insert(PRESET.into(), preset);
    }
    object(schema.docs, properties)
}

fn object(docs: &str, properties: Map<String, Value>) -> Map<String, Value> {
    let mut object = described(docs);
    object.insert("type".into(), "object".into());
    object.insert("properties".into(), properties.into());
    object.insert("additionalProperties".into(), false.into());
    object
}

fn described(docs: &str) -> Map<String, Value> {
    let docs = (!docs.is_empty()).then(|| ("description".to_owned(), docs.into()));
    docs.into_iter().collect()
}

/// `default` is the table that the fields are defaults in, where it differs from their own.
fn properties(fields: &[FieldSchema], default: &Value) -> Map<String, Value> {
    let property = |field: &FieldSchema| {
        let default = default.get(field.name).unwrap_or(&field.default);
        let mut property = described(field.docs);
        for (keyword, value) in value(&field.ty, field.range.as_ref(), default) {
            // The docs of the field say more than those of its type.
            property.entry(keyword).or_insert(value);
        }
        property.insert("default".into(), default.clone());
        (field.name.to_owned(), property.into())
    };
    fields.iter().map(property).collect()
}

fn value(ty: &FieldType, range: Option<&Range>, default: &Value) -> Map<String, Value> {
    match ty {
        FieldType::Integer { min, max, .. } => integer(*min, *max, range),
        FieldType::Float { .. } => {
            let mut number = typed("number");
            if let Some(range) = range {
                range.add_to_json_schema(&mut number);
            }
            number
        }
        FieldType::Boolean => typed("boolean"),
        FieldType::String | FieldType::Path => typed("string"),
        FieldType::Optional(ty) => or_null(value(ty, range, default)),
        FieldType::List(ty) => list(ty, range),
        FieldType::Array(ty, length) => {
            let mut array = list(ty, range);
            array.insert("minItems".into(), (*length).into());
            array.insert("maxItems".into(), (*length).into());
            array
        }
        FieldType::Enum(schema) => choice(schema, default),
        FieldType::Either(types) => {
            let types: Vec<_> = types.iter().map(|ty| value(ty, range, default)).collect();
            Map::from_iter([("anyOf".to_owned(), json!(types))])
        }
        FieldType::Config(schema) => table(schema, default),
    }
}

fn typed(name: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), name.into())])
}

/// The bounds of Rust's type hold where the range gives none.
fn integer(min: i128, max: i128, range: Option<&Range>) -> Map<String, Value> {
    let mut integer = typed("integer");
    if let Some(range) = range {
        range.add_to_json_schema(&mut integer);
    }
    let bound = |value| serde_json::Number::from_i128(value).map_or(Value::Null, Value::Number);
    integer.entry("minimum").or_insert_with(|| bound(min));
    if !integer.contains_key("exclusiveMaximum") {
        integer.entry("maximum").or_insert_with(|| bound(max));
    }
    integer
}

fn list(ty: &FieldType, range: Option<&Range>) -> Map<String, Value> {
    let mut list = typed("array");
    list.insert("items".into(), value(ty, range, &Value::Null).into());
    list
}

fn or_null(mut schema: Map<String, Value>) -> Map<String, Value> {
    match schema.get_mut("type") {
        Some(Value::String(name)) => {
            let types = json!([name, "null"]);
            schema.insert("type".into(), types);
            if let Some(Value::Array(names)) = schema.get_mut("enum") {
                names.push(Value::Null);
            }
            schema
        }
        _ => Map::from_iter([("anyOf".to_owned(), json!([schema, { "type": "null" }]))]),
    }
}

fn choice(schema: &EnumSchema, default: &Value) -> Map<String, Value> {
    let mut choice = described(schema.docs);
    let plain = schema.variants.iter().filter(|variant| variant.fields.is_empty());
    let names: Vec<&str> = plain.map(|variant| variant.name).collect();
    let names = json!({ "type": "string", "enum": names });
    if !schema.has_data() {
        choice.extend(names.as_object().cloned().unwrap_or_default());
        return choice;
    }
    let tables = schema.variants.iter().map(|variant| {
        let default = if default[TAG] == variant.name { default } else { &Value::Null };
        let mut all = Map::from_iter([(TAG.to_owned(), json!({ "const": variant.name }))]);
        all.extend(properties(&variant.fields, default));
        let mut table = object(variant.docs, all);
        table.insert("required".into(), json!([TAG]));
        Value::Object(table)
    });
    let has_plain = schema.variants.iter().any(|variant| variant.fields.is_empty());
    let any: Vec<Value> = has_plain.then_some(names).into_iter().chain(tables).collect();
    choice.insert("anyOf".into(), any.into());
    choice
}
