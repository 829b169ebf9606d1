//! Amounts of memory, as people write and read them.

use crate::config::text_field;
use std::{fmt, str::FromStr};

/// A number of bytes that is shown in the unit that fits: `1.5 GiB`.
///
/// It is read from a number and a unit, powers of 1024 (`12 GiB`, `512MiB`) or of 1000 (`16 GB`); a number
/// alone counts bytes.
///
/// ```
/// use mlx_train_core::bytes::Bytes;
/// assert_eq!("1.5 GiB".parse(), Ok(Bytes(3 << 29)));
/// assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// What a number of bytes cannot be read from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no amount of memory; write a number and a unit, as in `12 GiB` or `512 MB`")]
pub struct BytesError {
    text: String,
}

const BINARY: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const DECIMAL: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];

impl Bytes {
    /// The same number to the last byte, in the largest unit that has no fraction: `1536 MiB`.
    pub fn exact(self) -> String {
        // Of zero, every unit is one.
        let power = self.0.checked_ilog2().map_or(0, |_| self.0.trailing_zeros() / 10);
        match power.checked_sub(1).and_then(|index| BINARY.get(index as usize)) {
            Some(unit) => format!("{} {unit}", self.0 >> (10 * power)),
            None => format!("{} bytes", self.0),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut shown = None;
        for unit in BINARY {
            // What would be rounded to 1024 belongs to the next unit.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            shown = Some(unit);
        }
        match shown {
            None => f.pad(&format!("{} bytes", self.0)),
            Some(unit) => f.pad(&format!("{value:.1} {unit}")),
        }
    }
}

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let refused = || BytesError { text: text.to_owned() };
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor = factor(unit.trim()).ok_or_else(refused)?;
        if let Ok(number) = number.parse::<u64>() {
            return number.checked_mul(factor).map(Self).ok_or_else(refused);
        }
        let bytes = number.parse::<f64>().map_err(|_| refused())? * factor as f64;
        if bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(refused()) }
    }
}

/// How many bytes a unit has; its case does not count.
fn factor(unit: &str) -> Option<u64> {
    if ["", "b", "byte", "bytes"].iter().any(|bytes| unit.eq_ignore_ascii_case(bytes)) {
        return Some(1);
    }
    let of = |units: [&str; 6], base: u64| {
        let index = units.iter().position(|known| known.eq_ignore_ascii_case(unit))?;
        base.checked_pow(index as u32 + 1)
    };
    of(BINARY, 1024).or_else(|| of(DECIMAL, 1000))
}

text_field!(Bytes, |bytes: &Bytes| bytes.exact());

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        let shown = |bytes| Bytes(bytes).to_string();
        assert_eq!(shown(0), "0 bytes");
        assert_eq!(shown(1023), "1023 bytes");
        assert_eq!(shown(1024), "1.0 KiB");
        assert_eq!(shown(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(shown(1_610_612_736), "1.5 GiB");
        assert_eq!(shown(u64::MAX), "16.0 EiB");
        assert_eq!(format!("{:>9}", Bytes(1024)), "  1.0 KiB");
    }

    #[test]
    fn amounts_are_read_with_any_unit_and_without() {
        for (text, bytes) in [
            ("12 GiB", 12 << 30),
            ("12gib", 12 << 30),
            (" 1.5 MiB ", 3 << 19),
            ("16 GB", 16_000_000_000),
            ("0.5KB", 500),
            ("1024", 1024),
            ("7 bytes", 7),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "GiB", "12 apples", "-1 GiB", "1e9", "1.2.3 MB", "17 EiB", "99999999 TB"] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.to_string().contains("12 GiB"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_exact_text_is_read_as_the_same_number(bytes: u64, zeros in 0..64_u32) {
            let bytes = Bytes(bytes << zeros);
            prop_assert_eq!(bytes.exact().parse(), Ok(bytes));
        }
    }
}
