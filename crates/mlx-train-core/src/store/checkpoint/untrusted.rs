//! Every reader of a checkpoint's files, fed with bytes from anywhere.

use super::{
    Manifest,
    read::parse_json,
    run::parse_run,
    sealed::{seal_text, unseal},
    state::State,
};
use crate::store::{
    array_file::{LENGTH_BYTES, header_bytes, parse_header},
    array_set::Index,
};
use serde_json::Value;

/// Reads `bytes` as each file of a checkpoint; how many readers took them.
///
/// For `fuzz/` and the property test: whatever comes, this returns, in memory bounded by the input's.
pub fn read_all(bytes: &[u8]) -> usize {
    // Nobody guesses a hash, so that the readers behind it see the bytes with theirs.
    let sealed = std::str::from_utf8(bytes).map(seal_text).unwrap_or_default();
    let taken = [
        read_arrays(bytes).is_ok(),
        parse_header(bytes, 0).is_ok(),
        Index::parse(bytes).is_ok(),
        Manifest::parse(bytes).is_ok(),
        Manifest::parse(sealed.as_bytes()).is_ok(),
        unseal::<Value>(sealed.as_bytes()).is_ok(),
        parse_run(sealed.as_bytes()).is_ok(),
        parse_json::<State>(bytes).is_ok(),
        parse_json::<Value>(bytes).is_ok(),
    ];
    taken.into_iter().filter(|&taken| taken).count()
}

/// As a file of arrays is opened.
fn read_arrays(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or("too short")?;
    let header_bytes = header_bytes(*length, bytes.len() as u64)? as usize;
    let (header, data) = rest.split_at_checked(header_bytes).ok_or("too short")?;
    parse_header(header, data.len() as u64).map(drop)
}
