//! SHA-256 as 64 lower-case hexadecimal digits, as `sha256sum` prints it.

use crate::store::checksums::hex;
use sha2::{Digest, Sha256};

/// How long a hash is in text.
pub(super) const HEX_DIGITS: usize = 64;

/// The hash of `bytes`.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}
