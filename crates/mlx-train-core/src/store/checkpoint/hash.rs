//! SHA-256 as 64 lower-case hexadecimal digits, as `sha256sum` prints it.

use sha2::{Digest, Sha256};

/// How long a hash is in text.
pub(super) const HEX_DIGITS: usize = 64;

/// The hash of `bytes`.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// A digest as text.
pub(super) fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.map(|half| char::from(DIGITS[usize::from(half)])).collect()
}
