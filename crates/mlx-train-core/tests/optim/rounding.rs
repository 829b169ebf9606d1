//! Stochastic rounding.

use super::floats;
use mlx_rs::Dtype;
use mlx_train_core::{Array, Result, optim::round_stochastically, rng};
use proptest::prelude::*;

fn round(values: &[f32], seed: u64) -> Result<Vec<f32>> {
    let x = Array::from_slice(values, &[values.len() as i32]);
    let rounded = round_stochastically(&x, &rng::key(seed)?)?;
    assert_eq!((rounded.dtype(), rounded.shape()), (Dtype::Bfloat16, x.shape()));
    Ok(floats(&rounded))
}

/// The two bf16 numbers around a finite f32, the nearer to 0 first.
fn neighbours(x: f32) -> (f32, f32) {
    let below = f32::from_bits(x.to_bits() & 0xffff_0000);
    (below, f32::from_bits(below.to_bits() + 0x1_0000))
}

#[test]
fn the_mean_over_draws_is_the_number() -> Result<()> {
    const DRAWS: usize = 40_000;
    for x in [1.001_f32, -1.001, 3.0e-5, -777.3, 1.003_9, 1e30] {
        let draws = round(&vec![x; DRAWS], 3)?;
        let (low, high) = neighbours(x);
        assert!(draws.iter().all(|&draw| draw == low || draw == high), "{x}");
        let mean = draws.iter().map(|&draw| f64::from(draw)).sum::<f64>() / DRAWS as f64;
        // The mean of so many draws from two numbers is off by 2.5e-3 of their distance, at one
        // standard deviation or less; five of them are allowed.
        let error = (mean - f64::from(x)).abs() / f64::from((high - low).abs());
        assert!(error < 5.0 * 2.5e-3, "{x}: {mean}, off by {error} of a bf16 step");
    }
    Ok(())
}

#[test]
fn a_number_that_is_no_bf16_goes_both_ways() -> Result<()> {
    let draws = round(&[1.002; 64], 1)?;
    assert!(draws.contains(&1.0) && draws.contains(&1.007_812_5), "{draws:?}");
    Ok(())
}

#[test]
fn infinities_and_nans_stay_and_no_number_becomes_one() -> Result<()> {
    // A NaN whose lower half alone makes it one.
    let thin_nan = f32::from_bits(0x7f80_0001);
    let inf = f32::INFINITY;
    for seed in 0..8 {
        let rounded =
            round(&[inf, -inf, f32::NAN, thin_nan, f32::MAX, -f32::MAX, 0.0, -0.0], seed)?;
        assert_eq!(rounded[..2], [inf, -inf]);
        assert!(rounded[2].is_nan() && rounded[3].is_nan());
        assert!(rounded[4].is_finite() && rounded[5].is_finite());
        assert_eq!([rounded[6].to_bits(), rounded[7].to_bits()], [0, 1 << 31]);
    }
    Ok(())
}

#[test]
fn one_key_gives_one_result_and_another_key_another() -> Result<()> {
    let values: Vec<f32> = (0..256).map(|i| 1.0 + i as f32 * 1e-4).collect();
    assert_eq!(round(&values, 5)?, round(&values, 5)?);
    assert_ne!(round(&values, 5)?, round(&values, 6)?);
    Ok(())
}

#[test]
fn small_steps_of_a_bf16_weight_add_up() -> Result<()> {
    // To the nearest, a bf16 of 1 would never leave it in steps of 1e-4.
    let mut weight = Array::from_slice(&[1.0_f32; 256], &[256]).as_dtype(Dtype::Bfloat16)?;
    let mut key = rng::key(9)?;
    for _ in 0..200 {
        let (next, draws) = rng::split(&key)?;
        key = next;
        let moved = weight.as_dtype(Dtype::Float32)?.add(Array::from_f32(1e-4))?;
        weight = round_stochastically(&moved, &draws)?;
    }
    let mean = floats(&weight).iter().sum::<f32>() / 256.0;
    assert!((mean - 1.02).abs() < 2e-3, "{mean}");
    Ok(())
}

#[test]
fn another_dtype_is_refused() -> Result<()> {
    let half = Array::from_f32(1.0).as_dtype(Dtype::Bfloat16)?;
    let refused = round_stochastically(&half, &rng::key(0)?).expect_err("no f32").to_string();
    assert!(refused.contains("Bfloat16") && refused.contains("Float32"), "{refused}");
    Ok(())
}

proptest! {
    #[test]
    fn a_number_goes_to_a_neighbour_and_a_bf16_stays(bits: u32, seed: u64) {
        let x = f32::from_bits(bits);
        prop_assume!(x.is_finite());
        let (low, high) = neighbours(x);
        let rounded = round(&[x, low], seed).unwrap();
        prop_assert!(rounded[0] == low || (rounded[0] == high && high.is_finite()));
        prop_assert_eq!(rounded[1].to_bits(), low.to_bits());
    }
}
