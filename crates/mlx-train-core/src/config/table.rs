//! Reading a table into a struct or a variant of an enum: what derives expand to calls.

use super::{
    ModelConfig, Preset,
    field::ConfigField,
    node::{Entry, Kind, Node},
    preset,
    reader::Reader,
    schema::{EnumSchema, FieldType},
    suggest::{hint, shorten},
};

/// The key that says which variant of an enum with data a table is.
pub(crate) const TAG: &str = "kind";

/// The key that names a preset.
pub(crate) const PRESET: &str = "preset";

/// The entries of a table while its fields are read from it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [Entry],
    known: Vec<&'static str>,
    reader: &'a mut Reader,
}

impl Fields<'_> {
    /// Reads the field `name`; `base` is its value where the table has none, or a wrong one.
    pub(crate) fn read<T: ConfigField>(&mut self, name: &'static str, base: &T) -> T {
        self.known.push(name);
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry
            .and_then(|entry| {
                self.reader.at_key(name, |reader| T::read(&entry.value, Some(base), reader))
            })
            .unwrap_or_else(|| base.clone())
    }

    fn finish(self) {
        self.reader.refuse_unknown(self.entries, &self.known);
    }
}

/// Reads a struct: `build` asks for each field, with the values of a base.
#[doc(hidden)]
pub fn read_struct<C: ModelConfig>(
    node: &Node,
    base: Option<&C>,
    reader: &mut Reader,
    build: impl FnOnce(&mut Fields<'_>, &C) -> C,
) -> Option<C> {
    let entries = match &node.kind {
        Kind::Table(entries) => entries.as_slice(),
        // A YAML section whose keys are all commented out.
        Kind::Null => &[],
        _ => return reader.refuse_type(node, &C::field_type()),
    };
    let presets = C::presets();
    let preset = read_preset(entries, &presets, reader);
    let base = preset.or_else(|| base.cloned()).unwrap_or_default();
    let mut fields = Fields { entries, known: Vec::new(), reader };
    let config = build(&mut fields, &base);
    if !presets.is_empty() {
        fields.known.push(PRESET);
    }
    fields.finish();
    Some(config)
}

fn read_preset<C: Clone>(
    entries: &[Entry],
    presets: &[Preset<C>],
    reader: &mut Reader,
) -> Option<C> {
    let entry = entries.iter().find(|entry| entry.name == PRESET && !presets.is_empty())?;
    let name = reader.at_key(PRESET, |reader| String::read(&entry.value, None, reader))?;
    match preset::find(&name, presets) {
        Ok(config) => Some(config),
        Err(message) => {
            let place = entry.value.place.clone();
            reader.at_key(PRESET, |reader| reader.push(place, message));
            None
        }
    }
}

/// Reads an enum: `build` gets the name of the variant and asks for its fields.
///
/// A variant is written as its name, or as a table whose `kind` is the name. A table without a
/// `kind` changes fields of the variant `base`.
#[doc(hidden)]
pub fn read_variant<T: ConfigField>(
    node: &Node,
    base: Option<&'static str>,
    reader: &mut Reader,
    build: impl FnOnce(&'static str, &mut Fields<'_>) -> Option<T>,
) -> Option<T> {
    let ty = T::field_type();
    let FieldType::Enum(schema) = &ty else { return None };
    let (entries, tag) = match &node.kind {
        Kind::Table(entries) if schema.has_data() => (entries.as_slice(), node.get(TAG)),
        _ => (&[][..], Some(node)),
    };
    let name = match (tag, base) {
        (Some(tag), _) => read_name(tag, &ty, schema, reader)?,
        (None, Some(base)) => base,
        (None, None) => {
            reader.refuse(node, &format!("has no `{TAG}`; it must be one of {}", schema.names()));
            return None;
        }
    };
    let mut fields = Fields { entries, known: vec![TAG], reader };
    let value = build(name, &mut fields);
    fields.finish();
    value
}

/// The variant that `tag` names.
fn read_name(
    tag: &Node,
    ty: &FieldType,
    schema: &EnumSchema,
    reader: &mut Reader,
) -> Option<&'static str> {
    let Some(name) = tag.text() else { return reader.refuse_type(tag, ty) };
    let known: Vec<&'static str> = schema.variants.iter().map(|variant| variant.name).collect();
    let found = known.iter().find(|known| **known == name).copied();
    if found.is_none() {
        let hint = hint(name, "choices", &known);
        let name = shorten(name);
        reader.refuse(tag, &format!("is \"{name}\", which is not one of its choices{hint}"));
    }
    found
}
