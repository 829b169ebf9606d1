//! Numbers in a checkpoint's JSON, which has no word for infinity or NaN.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Any f64: the finite ones as numbers, which read back to the last bit, the others as strings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SavedNumber(pub(super) f64);

impl Serialize for SavedNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for SavedNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Saved {
            Finite(f64),
            Other(String),
        }
        match Saved::deserialize(deserializer)? {
            Saved::Finite(value) => Ok(Self(value)),
            Saved::Other(text) => match text.as_str() {
                "NaN" => Ok(Self(f64::NAN)),
                "inf" => Ok(Self(f64::INFINITY)),
                "-inf" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(D::Error::custom(format_args!("`{text}` is no number"))),
            },
        }
    }
}

impl From<f64> for SavedNumber {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<SavedNumber> for f64 {
    fn from(number: SavedNumber) -> Self {
        number.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_to_the_last_bit(value in any::<f64>()) {
            let text = serde_json::to_string(&SavedNumber(value)).unwrap_or_default();
            let back: SavedNumber = serde_json::from_str(&text).map_err(|error| {
                TestCaseError::fail(format!("{text}: {error}"))
            })?;
            prop_assert!(back.0.to_bits() == value.to_bits() || (back.0.is_nan() && value.is_nan()));
        }
    }
}
