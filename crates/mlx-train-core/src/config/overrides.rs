//! Overrides: `key.path=value`, as a command line gives them.

use super::{
    Problem, format,
    node::{Entry, Kind, Node, Origin, Place},
    suggest::shorten,
    table::TAG,
};
use std::sync::Arc;

/// Deeper keys are no keys of a config.
const DEEPEST_KEY: usize = 32;

/// Puts the value of an override into the tree, whatever was there.
pub(crate) fn apply(root: &mut Node, text: &str) -> Result<(), Problem> {
    let place = Place::whole(&Arc::new(Origin::Override(text.to_owned())));
    let wrong = |message: &str| Problem::new("", place.clone(), message.to_owned());
    let (path, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("there is no `=`; write key=value, as in hidden_size=128"))?;
    let keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.iter().any(|key| key.is_empty()) || keys.len() > DEEPEST_KEY {
        let message =
            format!("`{}` is not a key; write key=value or table.key=value", shorten(path));
        return Err(wrong(&message));
    }
    if !matches!(root.kind, Kind::Table(_) | Kind::Null) {
        return Err(wrong(&format!("the config is {}, so it has no keys to override", root.kind)));
    }
    let value = parse_value(value.trim(), &place)
        .map_err(|message| wrong(&format!("the value is malformed: {message}")))?;
    put(root, &keys, value, &place);
    Ok(())
}

/// Puts `value` under `keys`; tables on the way are made where they are missing.
fn put(node: &mut Node, keys: &[&str], value: Node, place: &Place) {
    let [key, deeper @ ..] = keys else {
        *node = value;
        return;
    };
    let mut entries = take_entries(node, place);
    let index = entries.iter().position(|entry| entry.name == *key).unwrap_or_else(|| {
        let value = Node::new(Kind::Null, place.clone());
        entries.push(Entry { name: (*key).to_owned(), place: place.clone(), value });
        entries.len() - 1
    });
    put(&mut entries[index].value, deeper, value, place);
    node.kind = Kind::Table(entries);
}

/// The entries of a value that is or becomes a table. A name stays as its `kind`:
/// `schedule=cosine`, then `schedule.warmup=10`.
fn take_entries(node: &mut Node, place: &Place) -> Vec<Entry> {
    match std::mem::take(node) {
        Node { kind: Kind::Table(entries), place: old, .. } => {
            // A table that several overrides made is at the place of none of them.
            node.place = if old.is_override() && old != *place { Place::default() } else { old };
            entries
        }
        value => {
            node.place = place.clone();
            let tag =
                |value: Node| Entry { name: TAG.to_owned(), place: value.place.clone(), value };
            Some(value).filter(|value| value.text().is_some()).map(tag).into_iter().collect()
        }
    }
}

/// A TOML value, null, or else a string without quotes.
fn parse_value(text: &str, place: &Place) -> Result<Node, String> {
    let mut node = match format::parse_toml_value(text, place) {
        Ok(node) => node,
        Err(message) if text.starts_with(['[', '{', '"', '\'']) => return Err(message),
        Err(_) if text == "null" => Node::new(Kind::Null, place.clone()),
        Err(_) => Node::new(Kind::String(text.to_owned()), place.clone()),
    };
    let quoted = matches!(node.kind, Kind::String(_) | Kind::List(_) | Kind::Table(_));
    node.bare = (!quoted).then(|| text.into());
    Ok(node)
}
