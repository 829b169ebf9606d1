//! Generation: what ends a text, and what is refused before it starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_rs::{Array, ops::indexing::TryIndexOp};
use mlx_train_core::{
    Result,
    generate::{GenerateOptions, LanguageModel, Sampler, generate},
    nn::KvCache,
    rng,
};
use std::ops::ControlFlow::{Break, Continue};

const VOCAB_SIZE: i32 = 8;

/// Counts: after token `t` comes `t + 1`, modulo the vocabulary.
struct Counter {
    calls: Vec<i32>,
    largest: f32,
}

impl LanguageModel for Counter {
    fn logits(&mut self, tokens: &Array, _cache: &mut KvCache) -> Result<Array> {
        self.calls.push(tokens.shape()[1]);
        let next = tokens.try_index((.., .., mlx_rs::ops::indexing::NewAxis))?;
        let next = next.add(Array::from_int(1))?.remainder(Array::from_int(VOCAB_SIZE))?;
        let each = mlx_rs::ops::arange::<_, i32>(None, VOCAB_SIZE, None)?;
        Ok(each.eq(&next)?.as_type::<f32>()?.multiply(Array::from_f32(self.largest))?)
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(0)
    }

    fn context_length(&self) -> usize {
        1000
    }

    fn vocab_size(&self) -> usize {
        VOCAB_SIZE as usize
    }
}

fn counter() -> Counter {
    Counter { calls: Vec::new(), largest: 1.0 }
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..Default::default() }
}

/// The message of a refusal, with the number of calls to the model before it.
fn refusal(prompt: &[u32], options: &GenerateOptions) -> (String, usize) {
    let mut model = counter();
    let error = generate(&mut model, prompt, options, |_| Continue(())).unwrap_err();
    (error.to_string(), model.calls.len())
}

#[test]
fn greedy_text_follows_the_model_and_each_token_is_handed_out() {
    let mut heard = Vec::new();
    let text = generate(&mut counter(), &[3, 5], &options(5), |token| {
        heard.push(token);
        Continue(())
    });
    assert_eq!(text.unwrap(), [6, 7, 0, 1, 2]);
    assert_eq!(heard, [6, 7, 0, 1, 2]);
}

#[test]
fn a_stop_token_ends_the_text_and_is_not_part_of_it() {
    let options = GenerateOptions { stop_tokens: vec![4, 1], ..options(9) };
    let text = generate(&mut counter(), &[6], &options, |token| {
        assert_ne!(token, 1);
        Continue(())
    });
    assert_eq!(text.unwrap(), [7, 0]);
}

#[test]
fn the_caller_may_end_the_text() {
    let text = generate(&mut counter(), &[0], &options(9), |token| {
        if token == 3 { Break(()) } else { Continue(()) }
    });
    assert_eq!(text.unwrap(), [1, 2, 3]);
}

#[test]
fn a_long_prompt_passes_in_blocks_and_the_text_token_by_token() {
    let mut model = counter();
    let prompt: Vec<u32> = (0..900).map(|i| i % 8).collect();
    let text = generate(&mut model, &prompt, &options(3), |_| Continue(())).unwrap();
    assert_eq!(text, [4, 5, 6]);
    assert_eq!(model.calls, [512, 387, 1, 1, 1]);
}

#[test]
fn nothing_is_generated_when_no_token_is_asked_for() {
    assert!(generate(&mut counter(), &[1], &options(0), |_| Continue(())).unwrap().is_empty());
}

#[test]
fn one_seed_gives_one_text_and_another_seed_another() {
    let text = |seed| {
        let sampler = Sampler::with_temperature(1.0);
        let options = GenerateOptions { sampler, seed, ..options(40) };
        generate(&mut counter(), &[1], &options, |_| Continue(())).unwrap()
    };
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
}

#[test]
fn what_cannot_be_generated_is_refused_before_the_model_runs() {
    for (prompt, options, part) in [
        (&[][..], options(1), "the prompt is empty"),
        (
            &[1, 8],
            options(1),
            "token 8 at place 1 of the prompt is not in the model's vocabulary of 8",
        ),
        (&[u32::MAX], options(1), "token 4294967295 at place 0"),
        (&[1, 2], options(999), "lower max_tokens to 998"),
        (&[1], options(usize::MAX), "do not fit the model's context of 1000"),
    ] {
        let (error, calls) = refusal(prompt, &options);
        assert!(error.contains(part), "{error}");
        assert_eq!(calls, 0);
    }
    let hot = GenerateOptions { sampler: Sampler::with_temperature(f32::INFINITY), ..options(1) };
    assert!(refusal(&[1], &hot).0.contains("temperature is inf"));
}

#[test]
fn a_scope_is_refused_because_models_train_in_it() {
    rng::scope(&rng::key(0).unwrap(), || {
        assert!(refusal(&[1], &options(1)).0.contains("`rng::scope`"));
        Ok(())
    })
    .unwrap();
}

#[test]
fn logits_that_are_not_finite_are_an_error_and_not_a_token() {
    for largest in [f32::NAN, f32::INFINITY] {
        let mut model = Counter { largest, ..counter() };
        let error = generate(&mut model, &[1], &options(1), |_| Continue(())).unwrap_err();
        assert!(error.to_string().contains("diverged"), "{error}");
    }
}
