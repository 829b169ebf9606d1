//! Drawing a token from logits: greedy, temperature, top-k, top-p.

use super::GenerateError;
use crate::Result;
use mlx_rs::{
    Array,
    ops::{
        argsort_axis,
        indexing::{Ellipsis, TryIndexOp, argmax_axis, take_along_axis},
        select, softmax_axis,
    },
    random::categorical,
};

/// How a token is drawn from logits.
///
/// In this order, which is Hugging Face's: logits are divided by `temperature`, all but the
/// `top_k` largest are dropped, then all but the smallest set of the most likely tokens whose
/// probabilities add up to `top_p`; the draw is from what is left. The most likely token is always
/// left. Of equal logits the one of the lower token counts as larger.
///
/// Source of top-p: Holtzman et al., arXiv:1904.09751, section 3.1; of top-k: Fan et al.,
/// arXiv:1805.04833, section 5.1.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 1 draws from the model's own distribution, 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps this many of the most likely tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keeps the most likely tokens up to this probability, in `(0, 1]`; `None` keeps all.
    pub top_p: Option<f32>,
}

impl Sampler {
    /// Takes the most likely token each time.
    pub fn greedy() -> Self {
        Self::with_temperature(0.0)
    }

    /// Draws from all tokens at a temperature.
    pub fn with_temperature(temperature: f32) -> Self {
        Self { temperature, top_k: None, top_p: None }
    }

    /// Draws tokens `(...)`, uint32, from logits `(..., V)`, of any floating dtype, under `key` `(2,)`.
    ///
    /// # Errors
    /// [`GenerateError::Option`] when an option is out of its range; when MLX fails.
    pub fn sample(&self, logits: &Array, key: &Array) -> Result<Array> {
        self.check()?;
        let logits = logits.as_type::<f32>()?;
        if self.temperature == 0.0 || self.top_k == Some(1) {
            return Ok(argmax_axis(&logits, -1, None)?);
        }
        // Most likely first, so that both filters keep a leading part.
        let order = argsort_axis(logits.negative()?, -1)?; // (..., V)
        let sorted = take_along_axis(&logits, &order, -1)?;
        // Relative to the largest, a tiny temperature overflows to -inf only, never to NaN.
        let largest = sorted.max_axis(-1, true)?;
        let mut kept = sorted.subtract(largest)?.divide(Array::from_f32(self.temperature))?;
        if let Some(top_k) = self.top_k.and_then(|k| i32::try_from(k).ok()) {
            kept = kept.try_index((Ellipsis, ..top_k))?; // (..., K)
        }
        // Rounding could drop a tail that 1 keeps.
        if let Some(top_p) = self.top_p.filter(|&p| p < 1.0) {
            let before = softmax_axis(&kept, -1, None)?.cumsum(-1, None, false)?;
            let dropped = before.ge(Array::from_f32(top_p))?;
            kept = select(&dropped, Array::from_f32(f32::NEG_INFINITY), &kept)?;
        }
        let place = categorical(&kept, -1, None, key)?.expand_dims(-1)?; // (..., 1)
        Ok(take_along_axis(&order, &place, -1)?.squeeze_axes(&[-1])?)
    }

    /// Refuses options out of their ranges.
    pub(super) fn check(&self) -> Result<(), GenerateError> {
        let refuse = |name, value, range| Err(GenerateError::Option { name, value, range });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", f64::from(self.temperature), "0 or a positive number");
        }
        if self.top_k == Some(0) {
            return refuse("top_k", 0.0, "1 or more");
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                refuse("top_p", f64::from(p), "above 0 and at most 1")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use proptest::prelude::*;

    fn draw(sampler: &Sampler, logits: &[f32], seed: u64) -> u32 {
        let logits = Array::from_slice(logits, &[logits.len() as i32]);
        let token = sampler.sample(&logits, &rng::key(seed).unwrap()).unwrap();
        assert!(token.shape().is_empty());
        token.try_as_slice::<u32>().unwrap()[0]
    }

    /// How often each token is drawn under 2000 keys.
    fn frequencies(sampler: &Sampler, logits: &[f32]) -> Vec<f64> {
        let rows = Array::from_slice(&logits.repeat(2000), &[2000, logits.len() as i32]);
        let tokens = sampler.sample(&rows, &rng::key(1).unwrap()).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for &token in tokens.try_as_slice::<u32>().unwrap() {
            counts[token as usize] += 1.0 / 2000.0;
        }
        counts
    }

    /// Natural logs of 0.1, 0.4, 0.2, 0.3.
    fn logits() -> [f32; 4] {
        [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln)
    }

    fn assert_near(drawn: &[f64], expected: &[f64]) {
        // Four standard deviations of 2000 draws are below 0.045.
        let near = drawn.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.045);
        assert!(near, "{drawn:?} is not {expected:?}");
    }

    #[test]
    fn temperature_one_draws_from_the_distribution_and_two_from_its_root() {
        assert_near(
            &frequencies(&Sampler::with_temperature(1.0), &logits()),
            &[0.1, 0.4, 0.2, 0.3],
        );
        let roots = [0.1_f64, 0.4, 0.2, 0.3].map(f64::sqrt);
        let expected = roots.map(|root| root / roots.iter().sum::<f64>());
        assert_near(&frequencies(&Sampler::with_temperature(2.0), &logits()), &expected);
    }

    #[test]
    fn top_k_and_top_p_keep_the_most_likely_tokens() {
        let one = Sampler::with_temperature(1.0);
        let top_k = Sampler { top_k: Some(2), ..one.clone() };
        let of_two = [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0];
        assert_near(&frequencies(&top_k, &logits()), &of_two);
        // 0.4 and 0.3 reach 0.65 together; 0.75 needs 0.2 as well.
        assert_near(
            &frequencies(&Sampler { top_p: Some(0.65), ..one.clone() }, &logits()),
            &of_two,
        );
        let of_three = [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0];
        assert_near(&frequencies(&Sampler { top_p: Some(0.75), ..one }, &logits()), &of_three);
        // Of the two that top-k leaves, 0.57 alone reaches 0.5: top-p comes after top-k.
        let both = Sampler { top_p: Some(0.5), ..top_k };
        assert_near(&frequencies(&both, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let logits = Array::from_slice(&[1.0_f32], &[1]);
        let one = Sampler::with_temperature(1.0);
        for (name, sampler) in [
            ("temperature", Sampler::with_temperature(-1.0)),
            ("temperature", Sampler::with_temperature(f32::NAN)),
            ("top_k", Sampler { top_k: Some(0), ..one.clone() }),
            ("top_p", Sampler { top_p: Some(0.0), ..one.clone() }),
            ("top_p", Sampler { top_p: Some(1.5), ..one }),
        ] {
            let error = sampler.sample(&logits, &rng::key(0).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }

    proptest! {
        // Halves make ties, which all four must break alike.
        #[test]
        fn top_k_of_one_a_tiny_top_p_and_a_tiny_temperature_equal_greedy(
            halves in prop::collection::vec(-8_i8..8, 1..40),
            seed in any::<u64>(),
        ) {
            let logits: Vec<f32> = halves.iter().map(|&half| f32::from(half) / 2.0).collect();
            let one = Sampler::with_temperature(1.0);
            let greedy = draw(&Sampler::greedy(), &logits, seed);
            let first = logits.iter().position(|x| logits.iter().all(|y| y <= x));
            prop_assert_eq!(Some(greedy as usize), first);
            for sampler in [
                Sampler { top_k: Some(1), ..one.clone() },
                Sampler { top_p: Some(1e-9), ..one },
                Sampler { top_p: Some(1e-9), ..Sampler::with_temperature(1e-38) },
            ] {
                prop_assert_eq!(draw(&sampler, &logits, seed), greedy);
            }
        }

        #[test]
        fn one_key_draws_one_token(
            logits in prop::collection::vec(-4.0_f32..4.0, 1..40),
            temperature in 0.1_f32..3.0,
            top_k in prop::option::of(1_usize..50),
            top_p in prop::option::of(0.01_f32..=1.0),
            seed in any::<u64>(),
        ) {
            let sampler = Sampler { temperature, top_k, top_p };
            let token = draw(&sampler, &logits, seed);
            prop_assert_eq!(token, draw(&sampler, &logits, seed));
            let larger = logits.iter().filter(|&&x| x > logits[token as usize]).count();
            prop_assert!(top_k.is_none_or(|k| larger < k));
        }
    }
}
