//! How much memory MLX and the process hold.

use crate::{Result, bytes::Bytes};
use std::{
    fmt, fs,
    sync::atomic::{AtomicU64, Ordering},
};

/// The memory of this process at one moment.
///
/// What MLX counts is for all threads together. On unified memory, and on the CPU, it is part of
/// the resident set; on a discrete GPU it is the GPU's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What MLX arrays that are in use hold.
    pub active_bytes: u64,
    /// The most that arrays held since the start, or since [`Memory::reset_peak`].
    pub peak_bytes: u64,
    /// What MLX keeps to give to the next arrays.
    pub cache_bytes: u64,
    /// What the process has in RAM, where the system says so (Linux).
    pub resident_bytes: Option<u64>,
    /// What of that is of no file, where the system says so (Linux): files that are read through memory grow
    /// the resident set, and are no leak.
    pub anonymous_bytes: Option<u64>,
    /// What of the process the system has moved to disk, where it says so (Linux). A run that swaps is slow.
    pub swap_bytes: Option<u64>,
}

/// The peak before MLX's own counter was last set back by [`take_peak`].
static EARLIER_PEAK: AtomicU64 = AtomicU64::new(0);

impl Memory {
    /// The memory of this moment.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn now() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self {
            resident_bytes: status_bytes(&status, "VmRSS:"),
            anonymous_bytes: status_bytes(&status, "RssAnon:"),
            swap_bytes: status_bytes(&status, "VmSwap:"),
            ..Self::of_mlx()?
        })
    }

    /// What MLX says alone: it takes nanoseconds, where the system takes many microseconds.
    pub(super) fn of_mlx() -> Result<Self> {
        let peak_bytes = mlx_rs::memory::peak_memory()? as u64;
        Ok(Self {
            active_bytes: active_bytes()?,
            peak_bytes: peak_bytes.max(EARLIER_PEAK.load(Ordering::Relaxed)),
            cache_bytes: mlx_rs::memory::cache_memory()? as u64,
            ..Self::default()
        })
    }

    /// Starts to measure the peak anew, for the whole process.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn reset_peak() -> Result<()> {
        EARLIER_PEAK.store(0, Ordering::Relaxed);
        Ok(mlx_rs::memory::reset_peak_memory()?)
    }
}

/// What MLX arrays that are in use hold: as [`Memory::now`], without asking the system.
pub(crate) fn active_bytes() -> Result<u64> {
    Ok(mlx_rs::memory::active_memory()? as u64)
}

/// The peak since this was last called, or since [`Memory::reset_peak`]. That of [`Memory::now`] goes on.
pub(super) fn take_peak() -> Result<u64> {
    let peak = mlx_rs::memory::peak_memory()? as u64;
    EARLIER_PEAK.fetch_max(peak, Ordering::Relaxed);
    mlx_rs::memory::reset_peak_memory()?;
    Ok(peak)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { active_bytes, peak_bytes, cache_bytes, resident_bytes, swap_bytes, .. } = *self;
        let (active, peak, cache) = (Bytes(active_bytes), Bytes(peak_bytes), Bytes(cache_bytes));
        write!(f, "{active} active, {peak} peak, {cache} cached")?;
        // That nothing is swapped out goes without saying.
        let system = [(resident_bytes, "resident"), (swap_bytes.filter(|it| *it > 0), "swapped")];
        system.into_iter().try_for_each(|(bytes, name)| match bytes {
            Some(bytes) => write!(f, ", {} {name}", Bytes(bytes)),
            None => Ok(()),
        })
    }
}

/// The memory of the machine, where the system tells it in a file (Linux).
pub(crate) fn ram_bytes() -> Option<u64> {
    status_bytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// A line of Linux's `/proc/self/status` or `/proc/meminfo`, such as `VmRSS:   1024 kB`.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlx_rs::Array;

    #[test]
    fn an_array_that_lives_is_active_memory() -> Result<()> {
        let array = Array::zeros::<f32>(&[1 << 20])?;
        array.eval()?;
        let memory = Memory::now()?;
        assert!(memory.active_bytes >= 4 << 20 && memory.peak_bytes >= memory.active_bytes);
        let system = [memory.resident_bytes, memory.anonymous_bytes, memory.swap_bytes];
        assert!(system.iter().all(Option::is_some) || !cfg!(target_os = "linux"));
        Ok(())
    }

    #[test]
    fn what_the_system_says_is_read_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nVmSwap:\t       3 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(status_bytes(status, "VmSwap:"), Some(3 << 10));
        assert_eq!(status_bytes(status, "VmPeak:"), None);
    }

    #[test]
    fn swap_is_told_where_there_is_some() {
        let memory =
            Memory { resident_bytes: Some(1024), swap_bytes: Some(0), ..Memory::default() };
        assert!(memory.to_string().ends_with(", 1.0 KiB resident"), "{memory}");
        let swapped = Memory { swap_bytes: Some(1024), ..memory };
        assert!(swapped.to_string().ends_with(", 1.0 KiB swapped"), "{swapped}");
    }
}
