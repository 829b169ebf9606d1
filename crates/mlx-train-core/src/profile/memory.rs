//! How much memory MLX and the process hold.

use crate::Result;
use std::fmt;

/// The memory of this process at one moment.
///
/// What MLX counts is for all threads together. On unified memory, and on the CPU, it is part of
/// the resident set; on a discrete GPU it is the GPU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What MLX arrays that are in use hold.
    pub active_bytes: u64,
    /// The most that arrays held since the start, or since [`Memory::reset_peak`].
    pub peak_bytes: u64,
    /// What MLX keeps to give to the next arrays.
    pub cache_bytes: u64,
    /// What the process has in RAM, where the system says so (Linux).
    pub resident_bytes: Option<u64>,
}

impl Memory {
    /// The memory of this moment.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn now() -> Result<Self> {
        Ok(Self {
            active_bytes: mlx_rs::memory::active_memory()? as u64,
            peak_bytes: mlx_rs::memory::peak_memory()? as u64,
            cache_bytes: mlx_rs::memory::cache_memory()? as u64,
            resident_bytes: resident_bytes(),
        })
    }

    /// Starts to measure the peak anew, for the whole process.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn reset_peak() -> Result<()> {
        Ok(mlx_rs::memory::reset_peak_memory()?)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { active_bytes, peak_bytes, cache_bytes, resident_bytes } = *self;
        let (active, peak, cache) = (Bytes(active_bytes), Bytes(peak_bytes), Bytes(cache_bytes));
        write!(f, "{active} active, {peak} peak, {cache} cached")?;
        match resident_bytes {
            Some(bytes) => write!(f, ", {} resident", Bytes(bytes)),
            None => Ok(()),
        }
    }
}

/// Linux alone tells it in a file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A number of bytes that is shown in the unit that fits: `1.5 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut shown = "bytes";
        for unit in UNITS {
            // What would be rounded to 1024 belongs to the next unit.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            shown = unit;
        }
        match shown {
            "bytes" => f.pad(&format!("{} bytes", self.0)),
            unit => f.pad(&format!("{value:.1} {unit}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::Array;

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
    fn an_array_that_lives_is_active_memory() -> Result<()> {
        let array = Array::zeros::<f32>(&[1 << 20])?;
        array.eval()?;
        let memory = Memory::now()?;
        assert!(memory.active_bytes >= 4 << 20 && memory.peak_bytes >= memory.active_bytes);
        assert!(memory.resident_bytes.is_some() || !cfg!(target_os = "linux"));
        Ok(())
    }
}
