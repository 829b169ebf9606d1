//! Compile errors: all mistakes of an item at once, each at its own token.

use quote::ToTokens;
use std::fmt::Display;

/// The mistakes found so far in one item.
#[derive(Default)]
pub(crate) struct Mistakes(Option<syn::Error>);

impl Mistakes {
    /// Adds a message at the span of `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Adds an error that has its span already.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// The value of `result`, or nothing and one more mistake.
    pub(crate) fn keep<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// Everything that was found, if anything was.
    ///
    /// # Errors
    /// All mistakes in one error.
    pub(crate) fn finish(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// ``; did you mean `known`?`` for the known word that is nearest to `word`, or the list of all keys.
pub(crate) fn suggestion(word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance);
    match (nearest, known) {
        (Some((_, known)), _) => format!("; did you mean `{known}`?"),
        (None, [only]) => format!("; its only key is `{only}`"),
        (None, _) => format!("; its keys are `{}`", known.join("`, `")),
    }
}
