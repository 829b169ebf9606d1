//! How much arithmetic training takes, and how much a device can do.

use crate::ffi::DeviceInfo;
use mlx_rs::Dtype;

/// The arithmetic that one training token of a transformer takes, forward and backward.
///
/// `6 N + 12 L H Q T` floating-point operations: every parameter multiplies and adds once forward
/// and twice backward, and so do the attention scores over T tokens. What is recomputed is not
/// counted. Source: Chowdhery et al., arXiv:2204.02311, appendix B.
///
/// ```
/// # use mlx_train_core::profile::TransformerFlops;
/// let gpt2 = TransformerFlops {
///     num_parameters: 124_000_000,
///     num_layers: 12,
///     attention_width: 768,
///     seq_len: 1024,
/// };
/// assert_eq!(gpt2.per_token(), 857_246_208.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerFlops {
    /// N, all parameters; an embedding that is only looked up may be left out.
    pub num_parameters: u64,
    /// L, how many layers have attention; 0 for a model without.
    pub num_layers: u64,
    /// H Q, the width of all heads together.
    pub attention_width: u64,
    /// T, how many tokens a sequence has.
    pub seq_len: u64,
}

impl TransformerFlops {
    /// Floating-point operations per token.
    pub fn per_token(&self) -> f64 {
        let &Self { num_parameters, num_layers, attention_width, seq_len } = self;
        6.0 * num_parameters as f64
            + 12.0 * num_layers as f64 * attention_width as f64 * seq_len as f64
    }
}

/// The peak of a device in floating-point operations per second, dense.
///
/// `None` for what is not in the table: its maker tells no figure, or nobody has added it yet.
struct Peak {
    /// How the device's name begins; of two that fit the longer one is meant.
    name: &'static str,
    /// Products of f32 in f32.
    f32: f64,
    /// Products of f32 that are rounded to `TensorFloat-32`, which MLX uses on CUDA.
    tf32: Option<f64>,
    /// Products of bf16 that are summed in f32.
    bf16: Option<f64>,
}

const TERA: f64 = 1e12;

const fn peak(name: &'static str, f32: f64, tf32: Option<f64>, bf16: Option<f64>) -> Peak {
    Peak { name, f32, tf32, bf16 }
}

/// NVIDIA: the data sheets of the boards, without sparsity, SXM where nothing else is said.
/// Apple: the press releases and presentations of the chips, with their largest GPU; later chips
/// have no figure.
/// Apple's GPUs compute bf16 at the rate of f32 until the matrix units of the M5.
const PEAKS: &[Peak] = &[
    // nvidia.com/en-us/data-center/h100, h200
    peak("NVIDIA H100 PCIe", 51.0, Some(378.0), Some(756.0)),
    peak("NVIDIA H100 NVL", 60.0, Some(417.5), Some(835.5)),
    peak("NVIDIA H100", 67.0, Some(494.5), Some(989.5)),
    peak("NVIDIA H200 NVL", 60.0, Some(417.5), Some(835.5)),
    peak("NVIDIA H200", 67.0, Some(494.5), Some(989.5)),
    // nvidia.com/en-us/data-center/a100
    peak("NVIDIA A100", 19.5, Some(156.0), Some(312.0)),
    // nvidia.com/en-us/data-center/l4, l40s
    peak("NVIDIA L4", 30.3, Some(60.0), Some(121.0)),
    peak("NVIDIA L40S", 91.6, Some(183.0), Some(362.05)),
    // NVIDIA Ampere GA102 and Ada GPU architecture white papers, appendix A
    peak("NVIDIA GeForce RTX 3090", 35.6, Some(35.6), Some(71.0)),
    peak("NVIDIA GeForce RTX 4090", 82.6, Some(82.6), Some(165.2)),
    // 2020/11 (M1), 2021/10 (M1 Pro, M1 Max), 2022/06 (M2)
    peak("Apple M1", 2.6, None, Some(2.6)),
    peak("Apple M1 Pro", 5.2, None, Some(5.2)),
    peak("Apple M1 Max", 10.4, None, Some(10.4)),
    peak("Apple M2", 3.6, None, Some(3.6)),
];

/// The peak of a device for matrix products of a dtype, in floating-point operations per second.
///
/// `None` for a CPU, a device that is not in the table, and other dtypes than f32 and bf16. On a GPU
/// with CUDA, f32 means `TensorFloat-32` unless the environment has `MLX_ENABLE_TF32=0`, as in MLX.
pub fn peak_flops(device: &DeviceInfo, dtype: Dtype) -> Option<f64> {
    let with_tf32 = std::env::var("MLX_ENABLE_TF32").map_or(true, |value| value != "0");
    look_up(device, dtype, with_tf32)
}

fn look_up(device: &DeviceInfo, dtype: Dtype, with_tf32: bool) -> Option<f64> {
    let name = device.name.as_deref().filter(|_| device.is_gpu)?;
    let fits = |peak: &&Peak| {
        // A further word is a variant that the table knows nothing of, but for sizes of memory.
        let rest = name.strip_prefix(peak.name);
        rest.is_some_and(|rest| rest.is_empty() || is_trim(rest))
    };
    let peak = PEAKS.iter().filter(fits).max_by_key(|peak| peak.name.len())?;
    let tera = match dtype {
        Dtype::Float32 => Some(peak.tf32.filter(|_| with_tf32).unwrap_or(peak.f32)),
        Dtype::Bfloat16 => peak.bf16,
        _ => None,
    };
    tera.map(|tera| tera * TERA)
}

/// What follows a name without being another chip: `-SXM4-80GB`, ` 80GB HBM3`, ` 80GB`, ` PCIe`.
fn is_trim(rest: &str) -> bool {
    let words = rest.split([' ', '-']).filter(|word| !word.is_empty());
    rest.starts_with([' ', '-'])
        && words.into_iter().all(|word| {
            let is_memory = word.strip_suffix("GB").is_some_and(|n| n.parse::<u32>().is_ok());
            is_memory
                || word.starts_with("SXM")
                || ["HBM3", "HBM3e", "PCIE", "PCIe"].contains(&word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tera(name: &str, dtype: Dtype, with_tf32: bool) -> Option<f64> {
        let device = DeviceInfo { is_gpu: true, name: Some(name.into()), ..DeviceInfo::default() };
        look_up(&device, dtype, with_tf32).map(|flops| (flops / 1e11).round() / 10.0)
    }

    #[test]
    fn names_as_drivers_tell_them_are_found() {
        assert_eq!(tera("NVIDIA A100-SXM4-80GB", Dtype::Bfloat16, true), Some(312.0));
        assert_eq!(tera("NVIDIA H100 80GB HBM3", Dtype::Float32, true), Some(494.5));
        assert_eq!(tera("NVIDIA H100 80GB HBM3", Dtype::Float32, false), Some(67.0));
        assert_eq!(tera("NVIDIA H100 PCIe", Dtype::Bfloat16, true), Some(756.0));
        assert_eq!(tera("NVIDIA H200", Dtype::Bfloat16, true), Some(989.5));
        assert_eq!(tera("Apple M1 Max", Dtype::Float32, true), Some(10.4));
    }

    #[test]
    fn another_chip_of_a_similar_name_is_not_taken_for_it() {
        for name in ["Apple M2 Ultra", "Apple M11", "NVIDIA L40", "NVIDIA GeForce RTX 4090 D", ""] {
            assert_eq!(tera(name, Dtype::Float32, true), None, "{name}");
        }
        assert_eq!(tera("NVIDIA H200", Dtype::Float16, true), None);
        let cpu = DeviceInfo { name: Some("Apple M1".into()), ..DeviceInfo::default() };
        assert_eq!(look_up(&cpu, Dtype::Float32, true), None);
    }
}
