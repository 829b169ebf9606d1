//! JSON that tells when it was changed: its last entry is the SHA-256 of everything before it.

use super::hash::{HEX_DIGITS, hex_of};
use serde::{Serialize, de::DeserializeOwned};

/// What stands between the content and the hash, and after the hash.
const BEFORE: &str = ",\n  \"sha256\": \"";
const AFTER: &str = "\"\n}\n";

/// Renders a struct of at least one field.
pub(super) fn seal(content: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(content)?;
    Ok(seal_text(text.strip_suffix("\n}").unwrap_or(&text)))
}

/// Completes a JSON object without its last brace.
pub(super) fn seal_text(open_object: &str) -> String {
    let text = [open_object, BEFORE].concat();
    let hash = hex_of(text.as_bytes());
    text + &hash + AFTER
}

/// Reads what [`seal`] has rendered, or says how it differs from that.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let cut = "is cut off or has another end than it was saved with";
    let (before, hash) = bytes
        .strip_suffix(AFTER.as_bytes())
        .and_then(|bytes| bytes.split_last_chunk::<HEX_DIGITS>())
        .ok_or(cut)?;
    if hex_of(before).as_bytes() != hash {
        return Err("does not have the bytes that were saved".into());
    }
    let content = before.strip_suffix(BEFORE.as_bytes()).ok_or(cut)?;
    let json = [content, b"\n}"].concat();
    serde_json::from_slice(&json).map_err(|error| format!("is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sealed() -> Vec<u8> {
        seal(&BTreeMap::from([("step", 7), ("width", 3)])).unwrap().into_bytes()
    }

    #[test]
    fn what_was_sealed_is_json_and_is_read_back() {
        let json: serde_json::Value = serde_json::from_slice(&sealed()).unwrap();
        assert_eq!(json["step"], 7);
        let content: BTreeMap<String, i32> = unseal(&sealed()).unwrap();
        assert_eq!(content["width"], 3);
    }

    #[test]
    fn no_bit_can_be_flipped_and_no_byte_cut_or_added() {
        let whole = sealed();
        let refused = |bytes: &[u8]| unseal::<BTreeMap<String, i32>>(bytes).is_err();
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << bit;
                assert!(refused(&flipped), "bit {bit} of byte {place}");
            }
            assert!(refused(&whole[..place]) && refused(&whole[place + 1..]), "{place}");
        }
        assert!(refused(&[whole.as_slice(), b" "].concat()));
    }
}
