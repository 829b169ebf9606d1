//! How running means are kept between steps: in f32, or in half or a quarter of its memory.

use super::{
    Parameter,
    arithmetic::{scalar, working_dtype},
    rounding::round_stochastically,
};
use crate::{Result, config::ModelConfig};
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, indexing::TryIndexOp, maximum, minimum, pad, select, sign, zeros_dtype},
    random::uniform,
};
use std::f32::consts::LN_2;

/// How an optimizer keeps its running means between steps. Arithmetic is f32 with each.
///
/// Rounding is up or down by chance, so that a mean that moves by less than a digit still moves, on
/// average as it should. The draws follow from the name of the parameter and the number of the update: a
/// resumed run draws the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ModelConfig)]
pub enum StateFormat {
    /// As f32 numbers.
    #[default]
    F32,
    /// As bf16 numbers: half of the memory.
    Bf16,
    /// As bytes, in blocks of 256 with a scale for each: a quarter of the memory. Parameters of fewer than 4096 numbers keep f32.
    Int8,
}

/// What values a running mean has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Any.
    Signed,
    /// Positive ones and 0.
    Positive,
}

/// How many numbers share a scale. Source: Dettmers et al., arXiv:2110.02861, section 2.1, with blocks of
/// 2048 there; of 256 in the authors' library.
const BLOCK: i32 = 256;

/// Norms and biases are no memory to speak of. Source: the authors' library, `min_8bit_size`.
const SMALLEST: usize = 4096;

impl StateFormat {
    /// The format of a parameter's means.
    fn of(self, parameter: Parameter<'_>) -> Self {
        if self == Self::Int8 && parameter.value.size() < SMALLEST { Self::F32 } else { self }
    }

    /// Whether a part of the means of a parameter can be kept without the rest. Blocks of bytes may span parts.
    pub(super) fn keeps_parts(self, parameter: Parameter<'_>) -> bool {
        self.of(parameter) != Self::Int8
    }

    /// Whether means that were read and written again are the same to the last bit.
    pub(super) fn is_exact(self) -> bool {
        self != Self::Int8
    }

    /// The names of the arrays: `whole`, one for each mean, or `packed`, codes and scales of each.
    pub(super) fn names(
        self,
        parameter: Parameter<'_>,
        whole: &'static [&'static str],
        packed: &'static [&'static str],
    ) -> &'static [&'static str] {
        if self.of(parameter) == Self::Int8 { packed } else { whole }
    }

    /// The arrays of means that are zero.
    pub(super) fn init(self, parameter: Parameter<'_>, ranges: &[Range]) -> Result<Vec<Array>> {
        let shape = parameter.value.shape();
        let zeros = |shape: &[i32], dtype| zeros_dtype(shape, dtype);
        let arrays = ranges.iter().map(|range| -> Result<Vec<Array>> {
            Ok(match self.of(parameter) {
                Self::F32 => vec![zeros(shape, working_dtype(parameter.value))?],
                Self::Bf16 => vec![zeros(shape, Dtype::Bfloat16)?],
                Self::Int8 => {
                    let num_blocks = num_blocks(parameter.value);
                    let codes = zeros(&[num_blocks, BLOCK], range.code())?;
                    vec![codes, zeros(&[num_blocks, 1], Dtype::Bfloat16)?]
                }
            })
        });
        Ok(arrays.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The means, of the parameter's shape and in the dtype of the arithmetic; `None` if `arrays` are others.
    pub(super) fn read<const N: usize>(
        self,
        parameter: Parameter<'_>,
        arrays: &[Array],
        ranges: [Range; N],
    ) -> Result<Option<[Array; N]>> {
        let dtype = working_dtype(parameter.value);
        let means = if self.of(parameter) == Self::Int8 {
            let pairs = arrays.chunks(2).zip(ranges);
            let means = pairs.filter_map(|(pair, range)| match pair {
                [codes, scales] => Some(unpacked(codes, scales, range, parameter.value.shape())),
                _ => None,
            });
            means.collect::<Result<Vec<_>>>()?
        } else {
            arrays.iter().map(|mean| Ok(mean.as_dtype(dtype)?)).collect::<Result<Vec<_>>>()?
        };
        Ok(means.try_into().ok())
    }

    /// The arrays of these means.
    pub(super) fn write<const N: usize>(
        self,
        parameter: Parameter<'_>,
        means: [Array; N],
        ranges: [Range; N],
        updates: &Array,
    ) -> Result<Vec<Array>> {
        let format = self.of(parameter);
        let mut arrays = Vec::with_capacity(2 * N);
        for (index, (mean, range)) in means.into_iter().zip(ranges).enumerate() {
            match format {
                Self::F32 => arrays.push(mean),
                Self::Bf16 => {
                    let key = key(parameter.name, index, updates)?;
                    arrays.push(round_stochastically(&mean.as_dtype(Dtype::Float32)?, &key)?);
                }
                Self::Int8 => {
                    let key = key(parameter.name, index, updates)?;
                    arrays.extend(packed(&mean, range, &key)?);
                }
            }
        }
        Ok(arrays)
    }
}

impl Range {
    /// The dtype of the codes.
    fn code(self) -> Dtype {
        match self {
            Self::Signed => Dtype::Int8,
            Self::Positive => Dtype::Uint8,
        }
    }

    /// The code of 1, the largest value of a block.
    fn largest(self) -> f32 {
        match self {
            Self::Signed => 127.0,
            Self::Positive => 255.0,
        }
    }

    /// The smallest code that stands for a power of two. Below it, a signed value is 0.
    ///
    /// A positive one never is: the root of a second moment divides, and a step would be as large as
    /// epsilon is small.
    fn smallest(self) -> f32 {
        match self {
            Self::Signed => 1.0,
            Self::Positive => 0.0,
        }
    }

    /// By how many powers of two neighbouring codes differ. All of them together span 2^16 for signed
    /// values and 2^24 for positive ones, those of squares.
    fn step(self) -> f32 {
        match self {
            Self::Signed => 16.0 / 126.0,
            Self::Positive => 24.0 / 255.0,
        }
    }

    /// The values in `[0, 1]` of codes without their signs, f32.
    fn decode(self, codes: &Array) -> Result<Array> {
        let exponents = codes.subtract(scalar(self.largest().into()))?;
        let powers = exponents.multiply(scalar((self.step() * LN_2).into()))?.exp()?;
        Ok(select(codes.ge(scalar(self.smallest().into()))?, powers, scalar(0.0))?)
    }
}

/// How many blocks the elements of an array make.
fn num_blocks(x: &Array) -> i32 {
    (x.size() as i32 + BLOCK - 1) / BLOCK
}

/// Codes `(blocks, 256)` and scales `(blocks, 1)`, bf16, of an array of any shape.
///
/// The scale is the largest magnitude of a block, and codes stand for powers of two between it and a smallest
/// one, as close together as a byte allows: 9 % apart, or 7 % if there are no signs. This takes the place of
/// the paper's dynamic tree, which has to be searched: it is arithmetic that MLX fuses when it compiles.
fn packed(x: &Array, range: Range, key: &Array) -> Result<[Array; 2]> {
    let flat = x.as_dtype(Dtype::Float32)?.reshape(&[-1])?;
    let missing = num_blocks(x) * BLOCK - x.size() as i32;
    let flat = if missing > 0 { pad(flat, (0, missing), None, None)? } else { flat };
    let blocks = flat.reshape(&[-1, BLOCK])?;

    let magnitudes = blocks.abs()?;
    let scales = at_least(&magnitudes.max_axis(-1, true)?)?;
    // A block of zeros has the scale 0, and its codes are those of 0.
    let divisors = maximum(scales.as_dtype(Dtype::Float32)?, scalar(f32::MIN_POSITIVE.into()))?;
    let values = magnitudes.divide(divisors)?; // in [0, 1]
    let positions = values.log2()?.divide(scalar(range.step().into()))?;
    let positions = maximum(positions.add(scalar(range.largest().into()))?, scalar(0.0))?;
    let below =
        select(positions.ge(scalar(range.smallest().into()))?, positions.floor()?, scalar(0.0))?;
    let (low, high) = (range.decode(&below)?, range.decode(&below.add(scalar(1.0))?)?);
    let share = values.subtract(&low)?.divide(high.subtract(&low)?)?;
    let draws = uniform::<_, f32>(0.0, 1.0, values.shape(), key)?;
    let codes = below.add(draws.lt(share)?.as_dtype(Dtype::Float32)?)?;
    let codes = minimum(codes, scalar(range.largest().into()))?;
    let codes = if range == Range::Signed { codes.multiply(sign(&blocks)?)? } else { codes };
    Ok([codes.as_dtype(range.code())?, scales])
}

/// The array of a shape that codes and scales stand for, f32.
fn unpacked(codes: &Array, scales: &Array, range: Range, shape: &[i32]) -> Result<Array> {
    let codes = codes.as_dtype(Dtype::Float32)?;
    let values = match range {
        Range::Signed => range.decode(&codes.abs()?)?.multiply(sign(codes)?)?,
        Range::Positive => range.decode(&codes)?,
    };
    let values = values.multiply(scales.as_dtype(Dtype::Float32)?)?.reshape(&[-1])?;
    let size: i32 = shape.iter().product();
    Ok(values.try_index(..size)?.reshape(shape)?)
}

/// A bf16 that is not below a positive `x`.
fn at_least(x: &Array) -> Result<Array> {
    let nearest = x.as_dtype(Dtype::Bfloat16)?;
    let above = x.multiply(scalar(1.0 + 1.0 / 128.0))?.as_dtype(Dtype::Bfloat16)?;
    Ok(select(nearest.ge(x)?, &nearest, above)?)
}

/// A key of its own for each mean of each parameter in each update.
fn key(name: &str, index: usize, updates: &Array) -> Result<Array> {
    // FNV-1a, which is the same on every machine.
    let bytes = name.bytes().chain([index as u8]);
    let hash = bytes
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let updates = updates.as_dtype(Dtype::Uint32)?.reshape(&[1])?;
    Ok(concatenate(&[updates, Array::from_slice(&[hash], &[1])], 0)?)
}
