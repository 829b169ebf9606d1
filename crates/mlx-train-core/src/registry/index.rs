//! The models of a program by name, alias and tag.

use super::{ModelEntry, NameClash, RegistryError};
use globset::{Glob, GlobMatcher};
use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
    sync::OnceLock,
};

/// How many close names an error suggests.
const MAX_SUGGESTIONS: usize = 3;

/// Entries by name. A look-up costs the same whatever their number, and the index is made in one pass: only
/// who asks for a list, or for a name that is not there, waits for them to be sorted.
#[derive(Debug)]
pub struct Index {
    /// In the linker's order, which is none.
    entries: Vec<&'static ModelEntry>,
    /// An entry that has a name, or an alias, of this text.
    by_name: HashMap<&'static str, &'static ModelEntry>,
    /// All entries of a text that several have.
    clashes: HashMap<&'static str, Vec<&'static ModelEntry>>,
    /// In natural order of the names, once that was asked for.
    sorted: OnceLock<Vec<&'static ModelEntry>>,
}

impl Index {
    /// The index of these entries, in any order.
    pub fn new(entries: impl IntoIterator<Item = &'static ModelEntry>) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let mut by_name = HashMap::with_capacity(entries.len());
        let mut clashes: HashMap<_, Vec<_>> = HashMap::new();
        for &entry in &entries {
            for name in entry.names() {
                match by_name.entry(name) {
                    Entry::Vacant(free) => _ = free.insert(entry),
                    Entry::Occupied(first) => {
                        clashes.entry(name).or_insert_with(|| vec![*first.get()]).push(entry);
                    }
                }
            }
        }
        Self { entries, by_name, clashes, sorted: OnceLock::new() }
    }

    /// The entry with this name or alias.
    ///
    /// # Errors
    /// As [`ModelRegistry::get_model`](super::ModelRegistry::get_model).
    pub fn get(&self, name: &str) -> Result<&'static ModelEntry, RegistryError> {
        if let Some((name, entries)) = self.clashes.get_key_value(name) {
            return Err(RegistryError::NameClash(vec![clash(name, entries)]));
        }
        self.by_name.get(name).copied().ok_or_else(|| self.unknown(name))
    }

    /// The entries that match a pattern, in natural order.
    ///
    /// # Errors
    /// As [`ModelRegistry::list`](super::ModelRegistry::list).
    pub fn list(&self, pattern: &str) -> Result<Vec<&'static ModelEntry>, RegistryError> {
        let pattern = Pattern::new(pattern)?;
        let clashing = self.clashes.iter();
        let clashing =
            clashing.filter(|(_, entries)| entries.iter().any(|entry| pattern.matches(entry)));
        let mut clashes: Vec<_> = clashing.map(|(name, entries)| clash(name, entries)).collect();
        if !clashes.is_empty() {
            clashes.sort_by(|a, b| natural(a.name(), b.name()));
            return Err(RegistryError::NameClash(clashes));
        }
        Ok(self.sorted().iter().copied().filter(|entry| pattern.matches(entry)).collect())
    }

    fn sorted(&self) -> &[&'static ModelEntry] {
        self.sorted.get_or_init(|| in_natural_order(&self.entries))
    }

    fn unknown(&self, name: &str) -> RegistryError {
        let written = Written::new(name);
        let mut close: Vec<_> = self
            .by_name
            .keys()
            .filter_map(|known| Some((written.distance_to(known)?, *known)))
            .collect();
        close.sort_by(|(a, a_name), (b, b_name)| a.cmp(b).then_with(|| natural(a_name, b_name)));
        close.truncate(MAX_SUGGESTIONS);
        RegistryError::UnknownModel {
            name: name.to_owned(),
            close: close.into_iter().map(|(_, name)| name).collect(),
            known: self.sorted().iter().map(|entry| entry.name()).collect(),
        }
    }
}

/// Models of one name need an order too, for their error.
fn in_natural_order(entries: &[&'static ModelEntry]) -> Vec<&'static ModelEntry> {
    let mut entries = entries.to_vec();
    entries
        .sort_by(|a, b| natural(a.name(), b.name()).then_with(|| a.type_path().cmp(b.type_path())));
    entries
}

fn clash(name: &'static str, entries: &[&'static ModelEntry]) -> NameClash {
    NameClash::new(name, in_natural_order(entries))
}

/// What [`Index::list`] looks for.
struct Pattern {
    glob: GlobMatcher,
    in_tags: bool,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, RegistryError> {
        // No name has a colon.
        let (glob, in_tags) = match pattern.strip_prefix("tag:") {
            Some(glob) => (glob, true),
            None => (pattern, false),
        };
        let refused = |source| RegistryError::Pattern { pattern: pattern.to_owned(), source };
        if glob.is_empty() {
            return Err(refused(None));
        }
        let glob = Glob::new(glob).map_err(|error| refused(Some(error)))?.compile_matcher();
        Ok(Self { glob, in_tags })
    }

    fn matches(&self, entry: &ModelEntry) -> bool {
        if self.in_tags {
            entry.tags().iter().any(|tag| self.glob.is_match(tag))
        } else {
            entry.names().any(|name| self.glob.is_match(name))
        }
    }
}

fn natural(a: &str, b: &str) -> Ordering {
    natord::compare(a, b).then_with(|| a.cmp(b))
}

/// A name that somebody wrote, in the spelling in which it is compared.
struct Written {
    text: String,
    letters: Letters,
}

impl Written {
    fn new(name: &str) -> Self {
        let text = name.to_lowercase().replace(['-', ' '], "_");
        Self { letters: Letters::of(&text), text }
    }

    /// How many edits lead to a known name, if that may be what was meant.
    fn distance_to(&self, known: &str) -> Option<usize> {
        // A third of the letters mistyped, or a beginning or part of the name.
        let Self { text, letters } = self;
        let plain = known.replace('-', "_");
        let most = plain.len().div_ceil(3).min(text.len());
        let is_part = text.len() >= 3 && plain.contains(text);
        if !is_part && letters.fewest_edits(&Letters::of(&plain)) > most {
            return None;
        }
        let distance = strsim::damerau_levenshtein(text, &plain);
        (is_part || distance <= most).then_some(distance)
    }
}

/// How often each letter occurs in a text; letters far apart in Unicode count as the same.
struct Letters([u16; 64]);

impl Letters {
    fn of(text: &str) -> Self {
        let mut counts = [0_u16; 64];
        for letter in text.chars() {
            let count = &mut counts[letter as usize % 64];
            *count = count.saturating_add(1);
        }
        Self(counts)
    }

    /// A number that edits between two texts cannot be below: each takes away one letter at most, and adds one.
    /// Counting edits takes much longer, and this tells most names apart.
    fn fewest_edits(&self, other: &Self) -> usize {
        let lacks = |a: &Self, b: &Self| -> usize {
            a.0.iter().zip(b.0).map(|(a, b)| usize::from(b.saturating_sub(*a))).sum()
        };
        lacks(self, other).max(lacks(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_two_texts_are_fewer_edits_apart_than_their_letters_say(a in "[a-e_\u{e4}\u{124}]{0,12}", b in "[a-e_\u{e4}\u{124}]{0,12}") {
            let fewest = Letters::of(&a).fewest_edits(&Letters::of(&b));
            assert!(fewest <= strsim::damerau_levenshtein(&a, &b), "{a} {b}");
        }
    }
}
