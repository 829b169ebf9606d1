//! The models of a program by name, alias and tag.

use super::{ModelEntry, NameClash, RegistryError};
use globset::{Glob, GlobMatcher};
use std::{cmp::Ordering, collections::HashMap};

/// How many close names an error suggests.
const MAX_SUGGESTIONS: usize = 3;

/// Entries in natural order, and who claims which name.
pub(super) struct Index {
    entries: Vec<&'static ModelEntry>,
    /// The entries that have a name, or an alias, of this text: one, unless names clash.
    claims: HashMap<&'static str, Vec<&'static ModelEntry>>,
    /// The names with more than one claim, in natural order.
    clashes: Vec<NameClash>,
}

impl Index {
    pub(super) fn new(entries: impl IntoIterator<Item = &'static ModelEntry>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        // The linker's order is no order; models of one name need one too, for their error.
        entries.sort_by(|a, b| {
            natural(a.name(), b.name()).then_with(|| a.type_path().cmp(b.type_path()))
        });
        let mut claims: HashMap<_, Vec<_>> = HashMap::new();
        for &entry in &entries {
            for name in entry.names() {
                claims.entry(name).or_default().push(entry);
            }
        }
        let clashing = claims.iter().filter(|(_, entries)| entries.len() > 1);
        let mut clashes: Vec<_> =
            clashing.map(|(name, entries)| NameClash::new(name, entries.clone())).collect();
        clashes.sort_by(|a, b| natural(a.name(), b.name()));
        Self { entries, claims, clashes }
    }

    pub(super) fn get(&self, name: &str) -> Result<&'static ModelEntry, RegistryError> {
        match self.claims.get_key_value(name) {
            Some((_, entries)) if let [entry] = entries[..] => Ok(entry),
            Some((name, entries)) => {
                Err(RegistryError::NameClash(vec![NameClash::new(name, entries.clone())]))
            }
            None => Err(self.unknown(name)),
        }
    }

    pub(super) fn list(&self, pattern: &str) -> Result<Vec<&'static ModelEntry>, RegistryError> {
        let pattern = Pattern::new(pattern)?;
        let clashes: Vec<_> = self
            .clashes
            .iter()
            .filter(|clash| clash.entries().iter().any(|entry| pattern.matches(entry)))
            .cloned()
            .collect();
        if !clashes.is_empty() {
            return Err(RegistryError::NameClash(clashes));
        }
        Ok(self.entries.iter().copied().filter(|entry| pattern.matches(entry)).collect())
    }

    fn unknown(&self, name: &str) -> RegistryError {
        let mut close: Vec<_> =
            self.claims.keys().filter_map(|known| Some((distance(name, known)?, *known))).collect();
        close.sort_by(|(a, a_name), (b, b_name)| a.cmp(b).then_with(|| natural(a_name, b_name)));
        close.truncate(MAX_SUGGESTIONS);
        RegistryError::UnknownModel {
            name: name.to_owned(),
            close: close.into_iter().map(|(_, name)| name).collect(),
            known: self.entries.iter().map(|entry| entry.name()).collect(),
        }
    }
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

/// How many edits lead from a name that somebody wrote to a known one, if that may be what they meant.
fn distance(written: &str, known: &str) -> Option<usize> {
    // A third of the letters mistyped, or a beginning or part of the name.
    let written = written.to_lowercase().replace(['-', ' '], "_");
    let plain = known.replace('-', "_");
    let distance = strsim::damerau_levenshtein(&written, &plain);
    let alike = distance <= plain.len().div_ceil(3).min(written.len());
    let part = written.len() >= 3 && plain.contains(&written);
    (alike || part).then_some(distance)
}
