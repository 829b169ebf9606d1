//! Parameters by the patterns that their names match.

use super::{NearNames, OptimError};
use crate::Result;
use globset::{Glob, GlobSet};
use std::{collections::HashSet, fmt};

/// How many names an error shows.
const MAX_NEAR: usize = 3;

/// Globs over the names of parameters, such as `model.layers.*.norm.*`.
///
/// `*` stands for any characters, dots too, `?` for one, `[…]` for one of several and `{a,b}` for
/// one of two texts. A pattern has to match a whole name.
#[derive(Clone, Default)]
pub struct NamePatterns {
    globs: Vec<Glob>,
    /// All of them at once, as names are looked up in every step.
    set: GlobSet,
}

impl NamePatterns {
    /// The names that any of these patterns matches.
    ///
    /// # Errors
    /// [`OptimError::Pattern`] for one that is no glob.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        let refused = |pattern: &str, problem| {
            let pattern = pattern.to_owned();
            OptimError::Pattern { pattern, problem }
        };
        let glob = |pattern: S| {
            let pattern = pattern.as_ref();
            if pattern.is_empty() {
                return Err(refused(pattern, "it is empty".to_owned()));
            }
            Glob::new(pattern).map_err(|error| refused(pattern, error.kind().to_string()))
        };
        let globs: Vec<Glob> = patterns.into_iter().map(glob).collect::<Result<_, _>>()?;
        let set = GlobSet::new(&globs)
            // Each is a glob, so that only their size together can be a problem.
            .map_err(|error| refused(error.glob().unwrap_or("{…}"), error.kind().to_string()))?;
        Ok(Self { globs, set })
    }

    /// Whether a pattern matches this name.
    pub fn matches(&self, name: &str) -> bool {
        self.set.is_match(name)
    }

    /// Refuses a pattern that matches none of these names.
    ///
    /// # Errors
    /// [`OptimError::NoMatch`] with the names that look most like it.
    pub fn check(&self, names: &[&str]) -> Result<()> {
        let used: HashSet<usize> = names.iter().flat_map(|name| self.set.matches(name)).collect();
        let Some(unused) = (0..self.globs.len()).find(|place| !used.contains(place)) else {
            return Ok(());
        };
        let pattern = self.globs[unused].glob().to_owned();
        let near = NearNames(near(&pattern, names));
        Err(OptimError::NoMatch { pattern, near }.into())
    }
}

impl fmt::Debug for NamePatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.globs.iter().map(Glob::glob)).finish()
    }
}

/// The names that share most pairs of letters with a pattern, the nearest first.
fn near(pattern: &str, names: &[&str]) -> Vec<String> {
    let plain: String = pattern.chars().filter(|c| !"*?[]{},!".contains(*c)).collect();
    let mut scored: Vec<_> =
        names.iter().map(|name| (strsim::sorensen_dice(&plain, name), *name)).collect();
    // Stable, so that equally near names stay in the order of the model.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(MAX_NEAR).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = [
        "embed_tokens.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.input_layernorm.weight",
        "lm_head.weight",
    ];

    fn matched(patterns: &[&str]) -> Result<Vec<usize>> {
        let patterns = NamePatterns::new(patterns)?;
        Ok((0..NAMES.len()).filter(|&i| patterns.matches(NAMES[i])).collect())
    }

    #[test]
    fn a_star_crosses_dots_and_a_pattern_is_the_whole_name() -> Result<()> {
        assert_eq!(matched(&["layers.*.weight"])?, [1, 2]);
        assert_eq!(matched(&["*norm.weight", "{embed,lm}_*"])?, [0, 2, 3]);
        assert_eq!(matched(&["layers", "weight"])?, [0; 0]);
        Ok(())
    }

    #[test]
    fn a_pattern_without_a_match_is_refused_with_the_nearest_names() -> Result<()> {
        let patterns = NamePatterns::new(["*.weight", "layers.*.attention.q_proj.*"])?;
        assert_eq!(
            patterns.check(&NAMES).expect_err("misspelt").to_string(),
            "the pattern `layers.*.attention.q_proj.*` matches no parameter; the names most like it \
             are `layers.0.self_attn.q_proj.weight`, `layers.0.input_layernorm.weight`, \
             `embed_tokens.weight`"
        );
        NamePatterns::new(["*.weight"])?.check(&NAMES)
    }

    #[test]
    fn a_text_that_is_no_glob_is_refused() {
        for (pattern, problem) in [("layers.[0", "unclosed character class"), ("", "it is empty")] {
            let refused = NamePatterns::new([pattern]).expect_err("refused").to_string();
            assert!(refused.contains(problem) && refused.contains(pattern), "{refused}");
        }
    }
}
