//! The same numbers to the last bit.

use super::models::{Block, POLICIES, batch, bits, gradients, policy};
use mlx_rs::Array;
use mlx_train_core::{
    Result,
    checkpoint::{self, with_policy},
    ffi,
    nn::Stack,
    rng,
};
use std::slice::from_ref;

#[test]
fn loss_gradients_and_running_means_are_equal_to_the_last_bit_under_every_policy() -> Result<()> {
    let expected = gradients(&policy("none"))?;
    assert!(expected.iter().all(|bits| bits.iter().any(|&byte| byte != 0)));
    for text in POLICIES {
        assert!(gradients(&policy(text))? == expected, "{text}");
    }
    Ok(())
}

/// The gradient of the input of a stack of stacks, whose inner blocks may be checkpointed by hand as well.
fn gradient_of_stages(text: &str, by_hand: bool) -> Result<Vec<u8>> {
    let mut stages: Stack<Stack<Block>> = rng::scope(&rng::key(2)?, || {
        (0..2).map(|_| (0..2).map(|_| Block::new()).collect()).collect::<Result<_>>()
    })?;
    let run_block = move |block: &mut Block, x: Array| {
        if by_hand {
            checkpoint::module(block, from_ref(&x), |block, x| block.forward(&x[0]))
        } else {
            block.forward(&x)
        }
    };
    let loss = |x: &[Array]| {
        let run = || {
            stages.forward(x[0].clone(), move |stage, _, x| {
                stage.forward(x, move |block, _, x| run_block(block, x))
            })
        };
        let y = rng::scope(&rng::key(4)?, || with_policy(&policy(text), run))?;
        Ok(vec![y.square()?.sum(None)?])
    };
    let (_, gradients) = ffi::value_and_grad(loss, &[batch(3, 1)?.x], &[0])?;
    bits(&gradients[0])
}

#[test]
fn checkpoints_nest() -> Result<()> {
    for by_hand in [false, true] {
        let expected = gradient_of_stages("none", by_hand)?;
        for text in ["full", "every=2", "selective=[mlp]"] {
            assert!(gradient_of_stages(text, by_hand)? == expected, "{text} {by_hand}");
        }
    }
    Ok(())
}
