//! "Did you mean": the known name that is closest to an unknown one.

/// Longer names are not typing mistakes, and comparing them costs time.
const LONGEST_NAME: usize = 64;

/// How alike two names have to be, from 0 (nothing) to 1 (equal).
const ALIKE: f64 = 0.6;

/// The candidate that is closest to `name`, if one is close; case, `-` and `_` do not count.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let name = plain(name);
    candidates
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&name, &plain(known)), known))
        .filter(|(score, _)| *score >= ALIKE)
        // The first of equals wins, so that messages do not change by chance.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, known)| known)
}

/// `; did you mean …?`, or else the known names.
pub(crate) fn hint(name: &str, what: &str, known: &[&str]) -> String {
    match closest(name, known.iter().copied()) {
        Some(close) => format!("; did you mean `{close}`?"),
        None if known.is_empty() => format!("; there are no {what}"),
        None => format!("; the {what} are {}", quoted(known)),
    }
}

/// `` `a`, `b`, `c` ``.
pub(crate) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A text for a message: one line, without control characters, not longer than a line of a screen.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let control = character.is_control();
    control
        .then(|| character.escape_default())
        .into_iter()
        .flatten()
        .chain((!control).then_some(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_found_and_another_word_is_not() {
        let known = ["hidden_size", "num_heads", "num_layers"];
        assert_eq!(closest("hiden_size", known), Some("hidden_size"));
        assert_eq!(closest("num-layers", known), Some("num_layers"));
        assert_eq!(closest("NumHeads", known), Some("num_heads"));
        assert_eq!(closest("dropout", known), None);
        assert_eq!(closest(&"num_heads".repeat(10), known), None);
    }

    #[test]
    fn a_shortened_text_is_one_line_without_control_characters() {
        assert_eq!(shorten("a\n\u{1b}[31m"), "a\\n\\u{1b}[31m");
        assert_eq!(shorten(&"x".repeat(100)).chars().count(), 61);
    }
}
