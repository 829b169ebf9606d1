//! Dotted version numbers, compared number by number.

use std::fmt;
use std::str::FromStr;

/// `0.32.2`: any count of numbers; missing ones count as zero.
#[derive(Debug, Clone)]
pub struct Version(Vec<u64>);

/// The text is not numbers with dots between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version such as 0.32.2")]
pub struct NotAVersion(String);

impl Version {
    /// The first number.
    pub fn major(&self) -> u64 {
        self.0.first().copied().unwrap_or(0)
    }

    fn at(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let numbers = text.split('.').map(str::parse).collect::<Result<_, _>>();
        numbers.map(Self).map_err(|_| NotAVersion(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let length = self.0.len().max(other.0.len());
        (0..length).map(|i| self.at(i)).cmp((0..length).map(|i| other.at(i)))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(version("0.9") < version("0.32.2"));
        assert!(version("2.36") > version("2.35"));
        assert!(version("580.65.06") >= version("580"));
        assert_eq!(version("1.0"), version("1"));
    }

    #[test]
    fn text_that_is_not_numbers_is_refused() {
        for text in ["", "1.", "v1", "1.2-rc1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
