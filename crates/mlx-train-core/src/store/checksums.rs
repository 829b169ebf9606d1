//! Checksums of what a file holds, in hexadecimal digits.
//!
//! They guard against disks and copies that go wrong, not against people: who can change a file can change its
//! checksum. So a checkpoint has XXH3-128 (<https://xxhash.com>), as `xxhsum -H2` prints it, which takes a tenth of the
//! time of SHA-256, and one for each array, so that a damaged one is named. Those of before have SHA-256.

use super::error::shown;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, mem};
use xxhash_rust::xxh3::Xxh3;

/// What the bytes of a file add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksums {
    /// The SHA-256 of all of it, which checkpoints of the formats 1 and 2 have.
    Sha256(String),
    /// XXH3-128, which those of format 3 have.
    Xxh3 {
        /// Of what is in none of the arrays: the header, or all of a file without arrays.
        rest: String,
        /// Of each array by name.
        arrays: BTreeMap<String, String>,
    },
}

impl Checksums {
    /// How a file that adds up to `found` differs from one that has these, if it does.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        let changed = "does not have the bytes that were saved";
        match (self, found) {
            (Self::Xxh3 { rest, arrays }, Self::Xxh3 { rest: found_rest, arrays: found }) => {
                if rest != found_rest || !arrays.keys().eq(found.keys()) {
                    return Some(changed.into());
                }
                let name = arrays.iter().find(|&(name, sum)| found.get(name) != Some(sum))?.0;
                Some(format!("{changed} of the array `{}`", shown(name)))
            }
            _ => (self != found).then(|| changed.into()),
        }
    }
}

/// Checksums of a file that is on its way to the disk or from it.
pub(super) enum Summing {
    Sha256(Sha256),
    Xxh3(Box<Xxh3Summing>),
}

/// The arrays of a file are not known before they come, and follow one another.
pub(super) struct Xxh3Summing {
    now: Xxh3,
    /// Whose bytes come now: those of the rest come first.
    array: Option<String>,
    rest: String,
    arrays: BTreeMap<String, String>,
}

impl Summing {
    /// Of a file that is saved.
    pub(super) fn new() -> Self {
        let (now, rest, arrays) = (Xxh3::new(), String::new(), BTreeMap::new());
        Self::Xxh3(Box::new(Xxh3Summing { now, array: None, rest, arrays }))
    }

    /// Of a file that is read, to be compared with `saved`.
    pub(super) fn like(saved: &Checksums) -> Self {
        match saved {
            Checksums::Sha256(_) => Self::Sha256(Sha256::new()),
            Checksums::Xxh3 { .. } => Self::new(),
        }
    }

    /// Says that the next bytes are those of an array.
    pub(super) fn begin(&mut self, array: &str) {
        if let Self::Xxh3(it) = self {
            it.end();
            it.array = Some(array.to_owned());
        }
    }

    /// Adds the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(it) => it.update(bytes),
            Self::Xxh3(it) => it.now.update(bytes),
        }
    }

    /// What all bytes add up to.
    pub(super) fn finish(self) -> Checksums {
        match self {
            Self::Sha256(it) => Checksums::Sha256(hex(&it.finalize())),
            Self::Xxh3(mut it) => {
                it.end();
                Checksums::Xxh3 { rest: it.rest, arrays: it.arrays }
            }
        }
    }
}

impl Xxh3Summing {
    fn end(&mut self) {
        let sum = hex(&mem::take(&mut self.now).digest128().to_be_bytes());
        match self.array.take() {
            Some(array) => _ = self.arrays.insert(array, sum),
            None => self.rest = sum,
        }
    }
}

/// A digest as text.
pub(super) fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(mut summing: Summing, parts: &[(Option<&str>, &[u8])]) -> Checksums {
        for (array, bytes) in parts {
            if let Some(array) = array {
                summing.begin(array);
            }
            summing.update(bytes);
        }
        summing.finish()
    }

    #[test]
    fn sums_are_those_that_other_programs_print() {
        let Checksums::Xxh3 { rest, arrays } = summed(
            Summing::new(),
            &[(None, b""), (Some("a"), b"ab"), (None, b"c"), (Some("b"), b"")],
        ) else {
            panic!("it is XXH3-128");
        };
        // `xxhsum -H2` of nothing and of `abc`.
        assert_eq!(rest, "99aa06d3014798d86001c324468d497f");
        assert_eq!(arrays["a"], "06b05ab6733a618578af5f94892f3950");
        assert_eq!(arrays["b"], rest);
        let old = Checksums::Sha256(String::new());
        assert_eq!(
            summed(Summing::like(&old), &[(None, b"a"), (Some("a"), b"bc")]),
            Checksums::Sha256(
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into()
            )
        );
    }

    #[test]
    fn a_difference_is_told_with_the_array_that_has_it() {
        let of = |head: &'static [u8], arrays: [(&str, &'static [u8]); 2]| {
            let arrays = arrays.map(|(name, bytes)| (Some(name), bytes));
            summed(Summing::new(), &[&[(None, head)], &arrays[..]].concat())
        };
        let saved = of(b"head", [("a", b"1"), ("b", b"2")]);
        assert_eq!(saved.difference(&saved.clone()), None);
        let difference = |found: Checksums| saved.difference(&found).unwrap();
        assert!(difference(of(b"head", [("a", b"1"), ("b", b"3")])).contains("`b`"));
        assert!(difference(of(b"head", [("a", b"0"), ("b", b"2")])).contains("`a`"));
        for found in [
            of(b"h", [("a", b"1"), ("b", b"2")]),
            of(b"head", [("a", b"1"), ("c", b"2")]),
            summed(Summing::new(), &[(None, b"head"), (Some("a"), b"1")]),
            Checksums::Sha256("0".repeat(64)),
        ] {
            assert!(difference(found).ends_with("that were saved"));
        }
    }
}
