//! Numbers as fields of a config: read without losing anything unseen, written in the fewest digits.

use super::{
    field::ConfigField,
    node::{Kind, Node},
    range::Numeric,
    reader::Reader,
    schema::FieldType,
};

macro_rules! integers {
    ($($type:ident)*) => {$(
        // Lossless for all of them, but `usize` and `isize` have no `From` that says so.
        #[allow(clippy::cast_lossless)]
        impl ConfigField for $type {
            fn field_type() -> FieldType {
                FieldType::Integer {
                    name: stringify!($type),
                    min: $type::MIN as i128,
                    max: $type::MAX as i128,
                }
            }

            fn to_node(&self) -> Node {
                Kind::Int(*self as i128).into()
            }

            fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
                let value = read_integer(node, &Self::field_type(), reader)?;
                Self::try_from(value).ok()
            }
        }

        impl Numeric for $type {}
    )*};
}

integers! { i8 i16 i32 i64 isize u8 u16 u32 u64 usize }

fn read_integer(node: &Node, ty: &FieldType, reader: &mut Reader) -> Option<i128> {
    let FieldType::Integer { name, min, max } = *ty else { return None };
    match node.kind {
        Kind::Int(value) if (min..=max).contains(&value) => Some(value),
        Kind::Int(value) => {
            reader.refuse(node, &format!("is {value}, but must be from {min} to {max} ({name})"));
            None
        }
        // Never rounded, not even where nothing would be lost: 1.5 must not depend on luck.
        Kind::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            reader.refuse(
                node,
                &format!("is the float {value:?}, but must be an integer; write {value:.0}"),
            );
            None
        }
        _ => reader.refuse_type(node, ty),
    }
}

impl ConfigField for f64 {
    fn field_type() -> FieldType {
        FieldType::Float { name: "f64" }
    }

    fn to_node(&self) -> Node {
        Kind::Float(*self).into()
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        read_float(node, &Self::field_type(), reader)
    }
}

impl ConfigField for f32 {
    fn field_type() -> FieldType {
        FieldType::Float { name: "f32" }
    }

    fn to_node(&self) -> Node {
        Kind::Float(shortest(*self)).into()
    }

    fn read(node: &Node, _base: Option<&Self>, reader: &mut Reader) -> Option<Self> {
        let wide = read_float(node, &Self::field_type(), reader)?;
        let narrow = wide as Self;
        let lost = narrow.is_infinite() || (narrow == 0.0 && wide != 0.0);
        if lost {
            let size = if narrow == 0.0 { "small" } else { "large" };
            reader.refuse(node, &format!("is {wide:?}, which is too {size} for an f32"));
        }
        (!lost).then_some(narrow)
    }
}

impl Numeric for f64 {}
impl Numeric for f32 {}

/// The `f64` with the fewest digits that is `value` as an `f32`: files say 0.1, not 0.10000000149.
fn shortest(value: f32) -> f64 {
    match value.to_string().parse::<f64>() {
        Ok(short) if (short as f32).to_bits() == value.to_bits() => short,
        _ => value.into(),
    }
}

fn read_float(node: &Node, ty: &FieldType, reader: &mut Reader) -> Option<f64> {
    match node.kind {
        Kind::Float(value) if value.is_finite() => Some(value),
        Kind::Float(value) => {
            reader.refuse(node, &format!("is {value}, but must be a finite number"));
            None
        }
        Kind::Int(value) if value as f64 as i128 == value => Some(value as f64),
        Kind::Int(value) => {
            reader.refuse(
                node,
                &format!("is {value}, which no float equals; write it as {:?}", value as f64),
            );
            None
        }
        _ => reader.refuse_type(node, ty),
    }
}
