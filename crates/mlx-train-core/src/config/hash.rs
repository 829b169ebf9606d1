//! A hash of a config's values that does not change with formatting, field order or machine.

use super::node::{Entry, Kind, Node};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// SHA-256, in hexadecimal, of the canonical form of a tree.
pub(crate) fn sha256(node: &Node) -> String {
    let mut canonical = String::new();
    write_node(node, &mut canonical);
    let mut hex = String::new();
    for byte in Sha256::digest(canonical) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// JSON without spaces and with sorted keys; floats in the shortest form that reads back exactly.
/// Floats that are not finite have no JSON, but still differ from each other here.
fn write_node(node: &Node, out: &mut String) {
    match &node.kind {
        Kind::Null => out.push_str("null"),
        Kind::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Kind::Int(value) => out.push_str(&value.to_string()),
        Kind::Float(value) => {
            let _ = write!(out, "{value:?}");
        }
        Kind::Date(text) | Kind::String(text) => write_string(text, out),
        Kind::List(items) => write_all(items.iter(), ['[', ']'], out, write_node),
        Kind::Table(entries) => {
            let mut sorted: Vec<&Entry> = entries.iter().collect();
            sorted.sort_by(|a, b| a.name.cmp(&b.name));
            write_all(sorted.into_iter(), ['{', '}'], out, |entry, out| {
                write_string(&entry.name, out);
                out.push(':');
                write_node(&entry.value, out);
            });
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn write_all<T>(
    items: impl Iterator<Item = T>,
    [open, close]: [char; 2],
    out: &mut String,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_does_not_depend_on_the_order_of_keys_and_depends_on_every_value() {
        let hash = |pairs: [(&str, i128); 2]| {
            sha256(&Node::table(pairs.map(|(name, value)| (name, Kind::Int(value).into()))))
        };
        assert_eq!(hash([("a", 1), ("b", 2)]), hash([("b", 2), ("a", 1)]));
        assert_ne!(hash([("a", 1), ("b", 2)]), hash([("a", 1), ("b", 3)]));
        assert_ne!(hash([("a", 1), ("b", 2)]), hash([("a", 1), ("c", 2)]));
    }

    #[test]
    fn the_hash_is_the_sha256_of_the_canonical_json() {
        // printf '{"lr":0.001}' | sha256sum
        let node = Node::table([("lr", Kind::Float(1e-3).into())]);
        assert_eq!(
            sha256(&node),
            "d368ce5a6807cfa34432f791b38d7bb01601c525f75fe24fab5b4bdc68eef7b2"
        );
    }
}
