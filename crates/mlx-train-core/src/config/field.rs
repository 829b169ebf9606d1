//! The types that a field of a config may have, and how each is read and written.

use super::{
    node::{Kind, Node},
    range::Range,
    reader::Reader,
    schema::{FieldSchema, FieldType},
    table::Fields,
};
use std::path::PathBuf;

/// A type that a field of a config may have.
///
/// Integers up to 64 bits, `f32`, `f64`, `bool`, `String`, `PathBuf`; [`Option`], [`Vec`] and arrays of
/// these; and what derives `ModelConfig`: structs, and enums, which need not be configs on their own.
pub trait ConfigField: Clone + Sized {
    /// The type, for messages and schemas.
    #[doc(hidden)]
    fn field_type() -> FieldType;

    /// The value as a tree.
    #[doc(hidden)]
    fn to_node(&self) -> Node;

    /// Reads a value; tables take from `base` what `node` leaves out. Problems go to the `reader`,
    /// and the value is `None` when there is nothing to go on with.
    #[doc(hidden)]
    fn read(node: &Node, base: Option<&Self>, reader: &mut Reader) -> Option<Self>;

    /// Checks what a schema cannot say, in nested configs first.
    #[doc(hidden)]
    fn cross_check(&self, _reader: &mut Reader) {}
}

/// What derives call for each field: [`ConfigField`] by another name.
///
/// The compiler adds to an error about a trait some of the types that implement it. Here that is this
/// one line, and not the configs of every crate.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a config cannot have a field of type `{Self}`",
    label = "not a type of a config field",
    note = "fields are numbers, `bool`, `String`, `PathBuf`, `Option`, `Vec` or arrays of these, \
            and your own structs and enums with `#[derive(ModelConfig)]`"
)]
pub trait DerivedField: Clone + Sized {
    /// The schema of a field of this type.
    fn describe_field(
        name: &'static str,
        docs: &'static str,
        default: &Self,
        range: Option<Range>,
    ) -> FieldSchema;

    /// The value as a tree.
    fn field_to_node(&self) -> Node;

    /// Reads the field `name` of a table; `base` is its value where the table has none, or a wrong one.
    fn read_field(fields: &mut Fields<'_>, name: &'static str, base: &Self) -> Self;

    /// Checks what a schema cannot say.
    fn check_field(&self, name: &'static str, reader: &mut Reader);
}

#[diagnostic::do_not_recommend]
impl<T: ConfigField> DerivedField for T {
    fn describe_field(
        name: &'static str,
        docs: &'static str,
        default: &Self,
        range: Option<Range>,
    ) -> FieldSchema {
        let default = default.to_node().into_json();
        FieldSchema { name, docs, ty: T::field_type(), default, range }
    }

    fn field_to_node(&self) -> Node {
        self.to_node()
    }

    fn read_field(fields: &mut Fields<'_>, name: &'static str, base: &Self) -> Self {
        fields.read(name, base)
    }

    fn check_field(&self, name: &'static str, reader: &mut Reader) {
        reader.at_key(name, |reader| self.cross_check(reader));
    }
}

impl ConfigField for bool {
    fn field_type() -> FieldType {
        FieldType::Boolean
    }

    fn to_node(&self) -> Node {
        Kind::Bool(*self).into()
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::Bool(value) => Some(value),
            _ => reader.refuse_type(node, &Self::field_type()),
        }
    }
}

impl ConfigField for String {
    fn field_type() -> FieldType {
        FieldType::String
    }

    fn to_node(&self) -> Node {
        Node::string(self)
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match node.text() {
            Some(text) => Some(text.to_owned()),
            None => reader.refuse_type(node, &Self::field_type()),
        }
    }
}

impl ConfigField for PathBuf {
    fn field_type() -> FieldType {
        FieldType::Path
    }

    fn to_node(&self) -> Node {
        Node::string(&self.to_string_lossy())
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match node.text() {
            Some(text) => Some(text.into()),
            None => reader.refuse_type(node, &Self::field_type()),
        }
    }

    fn cross_check(&self, reader: &mut Reader) {
        if self.to_str().is_none() {
            reader.refuse_value(&format!(
                "is the path {}, which is not UTF-8: rename it",
                self.display()
            ));
        }
    }
}

impl<T: ConfigField> ConfigField for Option<T> {
    fn field_type() -> FieldType {
        FieldType::Optional(Box::new(T::field_type()))
    }

    fn to_node(&self) -> Node {
        self.as_ref().map_or_else(Node::default, T::to_node)
    }

    fn read(node: &Node, base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::Null => Some(None),
            // TOML has no null. Where a string would be wrong anyway, this one stands for it.
            Kind::String(text) if text == "null" && !T::field_type().takes_strings() => Some(None),
            _ => T::read(node, base.and_then(Option::as_ref), reader).map(Some),
        }
    }

    fn cross_check(&self, reader: &mut Reader) {
        if let Some(value) = self {
            value.cross_check(reader);
        }
    }
}

impl<T: ConfigField> ConfigField for Vec<T> {
    fn field_type() -> FieldType {
        FieldType::List(Box::new(T::field_type()))
    }

    fn to_node(&self) -> Node {
        list_to_node(self)
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::List(items) => read_items(items, reader),
            _ => reader.refuse_type(node, &Self::field_type()),
        }
    }

    fn cross_check(&self, reader: &mut Reader) {
        cross_check_items(self, reader);
    }
}

impl<T: ConfigField, const N: usize> ConfigField for [T; N] {
    fn field_type() -> FieldType {
        FieldType::Array(Box::new(T::field_type()), N)
    }

    fn to_node(&self) -> Node {
        list_to_node(self)
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        match &node.kind {
            Kind::List(items) if items.len() == N => read_items(items, reader)?.try_into().ok(),
            _ => reader.refuse_type(node, &Self::field_type()),
        }
    }

    fn cross_check(&self, reader: &mut Reader) {
        cross_check_items(self, reader);
    }
}

fn list_to_node<T: ConfigField>(items: &[T]) -> Node {
    Kind::List(items.iter().map(T::to_node).collect()).into()
}

/// All items or none: a list that is shorter than its source would be checked at wrong places.
fn read_items<T: ConfigField>(items: &[Node], reader: &mut Reader) -> Option<Vec<T>> {
    let read = |(index, item)| reader.at_index(index, |reader| T::read(item, None, reader));
    let read: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
    read.into_iter().collect()
}

fn cross_check_items<T: ConfigField>(items: &[T], reader: &mut Reader) {
    for (index, item) in items.iter().enumerate() {
        reader.at_index(index, |reader| item.cross_check(reader));
    }
}
