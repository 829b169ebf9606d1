//! How much memory MLX may use before it gives some back.

use super::{MemoryConfig, ram_bytes};
use crate::{Error, Result, bytes::Bytes, ffi::DeviceInfo};

/// The limits of MLX's allocator, for the whole process; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// From how much memory on MLX frees what it caches, and waits for what runs before it begins more. It is
    /// no bound: a step that needs more gets it.
    pub memory: Option<Bytes>,
    /// How much freed memory MLX keeps for the next arrays.
    pub cache: Option<Bytes>,
    /// How much memory the system never moves to disk. Only Metal has it.
    pub wired: Option<Bytes>,
}

/// What share of a CPU's memory MLX keeps when it is freed.
const CACHE_SHARE: u64 = 8;

impl MemoryLimits {
    /// What a config says for a device, and what it says that the device does not have, in words.
    ///
    /// Where it says nothing and the device recommends a working set (Metal), the memory limit is that, which
    /// MLX's own exceeds by half, and as much is wired, as in Python's mlx-lm. With a budget, both are at most
    /// that. On a CPU, MLX keeps 32 MiB of freed memory, less than a step of a small model needs: what it gives back to
    /// the system comes again as empty pages, for a tenth of the time of such a step. So there it keeps an eighth of
    /// the memory limit, or else of what the machine has. Elsewhere MLX's defaults stay.
    ///
    /// # Errors
    /// When more is to be wired than the device recommends: MLX refuses it, since it could take the memory of
    /// the system itself.
    pub fn of(config: &MemoryConfig, device: &DeviceInfo) -> Result<(Self, Option<String>)> {
        let recommended = device.working_set_bytes.map(Bytes);
        let memory = config.memory_limit.or(config.memory_budget).or(recommended);
        // MLX knows the memory of GPUs alone.
        let all = || memory.or_else(|| device.memory_bytes.or_else(ram_bytes).map(Bytes));
        let share = || all().filter(|_| !device.is_gpu).map(|Bytes(all)| Bytes(all / CACHE_SHARE));
        let cache = config.cache_limit.or_else(share);
        let limits = Self { memory, cache, wired: None };
        match (config.wired_limit, recommended) {
            (Some(wired), None) => {
                let warning =
                    format!("wired_limit = {wired} has no effect: only Metal wires memory");
                Ok((limits, Some(warning)))
            }
            (Some(wired), Some(most)) if wired > most => Err(Error::message(format!(
                "wired_limit is {wired}, and this device recommends {most} at most; lower it, or leave it \
                 out for that"
            ))),
            (wired, most) => {
                let wired =
                    wired.or(most.map(|most| memory.map_or(most, |memory| most.min(memory))));
                Ok((Self { wired, ..limits }, None))
            }
        }
    }

    /// Sets them.
    ///
    /// # Errors
    /// When MLX fails.
    pub fn apply(&self) -> Result<()> {
        let Self { memory, cache, wired } = self;
        if let Some(Bytes(limit)) = memory {
            mlx_rs::memory::set_memory_limit(size(*limit))?;
        }
        if let Some(Bytes(limit)) = cache {
            mlx_rs::memory::set_cache_limit(size(*limit))?;
        }
        if let Some(Bytes(limit)) = wired {
            mlx_rs::memory::set_wired_limit(size(*limit))?;
        }
        Ok(())
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::device_info;

    const GIB: u64 = 1 << 30;

    fn gib(number: u64) -> Bytes {
        Bytes(number * GIB)
    }

    /// A Mac of 16 GiB.
    fn metal() -> DeviceInfo {
        let memory_bytes = Some(16 * GIB);
        DeviceInfo {
            is_gpu: true,
            memory_bytes,
            working_set_bytes: Some(12 * GIB),
            ..DeviceInfo::default()
        }
    }

    /// A GPU of NVIDIA's.
    fn cuda() -> DeviceInfo {
        DeviceInfo { is_gpu: true, memory_bytes: Some(80 * GIB), ..DeviceInfo::default() }
    }

    fn limits(config: MemoryConfig, device: &DeviceInfo) -> Result<MemoryLimits> {
        MemoryLimits::of(&config, device).map(|(limits, _)| limits)
    }

    #[test]
    fn on_metal_the_default_is_the_recommended_working_set_and_elsewhere_mlxs() -> Result<()> {
        let none = MemoryConfig::default;
        let expected = MemoryLimits { memory: Some(gib(12)), cache: None, wired: Some(gib(12)) };
        assert_eq!(limits(none(), &metal())?, expected);
        assert_eq!(limits(none(), &cuda())?, MemoryLimits::default());
        Ok(())
    }

    #[test]
    fn a_cpu_keeps_an_eighth_of_its_memory_or_of_the_budget_unless_told() -> Result<()> {
        let cpu = DeviceInfo { memory_bytes: Some(16 * GIB), ..DeviceInfo::default() };
        let cache = |config| limits(config, &cpu).map(|limits| limits.cache);
        let none = MemoryConfig::default();
        assert_eq!(cache(none)?, Some(gib(2)));
        let budget = MemoryConfig { memory_budget: Some(gib(8)), ..none };
        assert_eq!(cache(budget)?, Some(gib(1)));
        assert_eq!(cache(MemoryConfig { cache_limit: Some(gib(3)), ..budget })?, Some(gib(3)));
        let here = limits(none, &device_info()?)?;
        assert_eq!(
            here.cache,
            ram_bytes().map(|all| Bytes(all / CACHE_SHARE)),
            "MLX does not tell"
        );
        Ok(())
    }

    #[test]
    fn a_budget_bounds_what_is_not_given() -> Result<()> {
        let budget = MemoryConfig { memory_budget: Some(gib(8)), ..MemoryConfig::default() };
        let expected = MemoryLimits { memory: Some(gib(8)), cache: None, wired: Some(gib(8)) };
        assert_eq!(limits(budget, &metal())?, expected);
        let given = MemoryConfig {
            memory_limit: Some(gib(14)),
            cache_limit: Some(gib(1)),
            wired_limit: Some(gib(2)),
            ..budget
        };
        let expected =
            MemoryLimits { memory: Some(gib(14)), cache: Some(gib(1)), wired: Some(gib(2)) };
        assert_eq!(limits(given, &metal())?, expected);
        let above = MemoryConfig { memory_budget: Some(gib(14)), ..budget };
        assert_eq!(limits(above, &metal())?.wired, Some(gib(12)), "no more than is recommended");
        Ok(())
    }

    #[test]
    fn more_than_the_device_wires_is_refused_and_a_device_that_wires_nothing_is_told() -> Result<()>
    {
        let wired = MemoryConfig { wired_limit: Some(gib(13)), ..MemoryConfig::default() };
        let refused = limits(wired, &metal()).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|text| text.contains("13.0 GiB") && text.contains("12.0 GiB")));
        let (limits, warning) = MemoryLimits::of(&wired, &cuda())?;
        assert_eq!(limits, MemoryLimits::default());
        assert!(warning.is_some_and(|text| text.contains("13.0 GiB")));
        Ok(())
    }
}
