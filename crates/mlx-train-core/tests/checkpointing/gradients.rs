//! The same numbers to the last bit.

use super::models::{Block, Deep, POLICIES, WIDTH, batch, bits, gradients, policy};
use mlx_rs::{Array, Dtype, module::Module, ops::indexing::argmax};
use mlx_train_core::{
    Result,
    batch::Batch,
    checkpoint::{self, with_policy},
    ffi,
    nn::{Linear, Stack},
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

#[test]
fn gradients_reach_what_all_blocks_share() -> Result<()> {
    let gradients = |text: &str| -> Result<Vec<Vec<u8>>> {
        let mut stack = Deep::new(3)?.blocks;
        let loss = |x: &[Array]| {
            let y = with_policy(&policy(text), || {
                stack.forward_with(x[0].clone(), &x[1..], |block, _, x, shared| {
                    // Used twice inside, and once more outside.
                    Ok(block.forward(&x.multiply(&shared[0])?)?.add(&shared[0])?)
                })
            })?;
            Ok(vec![y.multiply(&x[1])?.sum(None)?])
        };
        let Batch { x, y, .. } = batch(3, 1)?;
        let (_, gradients) = ffi::value_and_grad(loss, &[x, y], &[0, 1])?;
        gradients.iter().map(bits).collect()
    };
    let expected = gradients("none")?;
    assert!(expected.iter().all(|bits| bits.iter().any(|&byte| byte != 0)));
    for text in ["full", "layers=[1]", "selective=[mix,mlp]"] {
        assert!(gradients(text)? == expected, "{text}");
    }
    Ok(())
}

#[test]
fn outputs_may_be_several_and_some_of_them_without_a_gradient() -> Result<()> {
    let gradients = |is_checkpointed: bool| -> Result<(Vec<u8>, i32)> {
        let mut layer = rng::scope(&rng::key(1)?, || Ok(Linear::new(WIDTH, 4)?))?;
        let run = |layer: &mut Linear, x: &[Array]| {
            let scores = layer.forward(&x[0])?;
            let choice = argmax(&scores, None)?;
            Ok([scores.square()?, choice, scores])
        };
        let loss = |x: &[Array]| {
            let [squares, choice, scores] = if is_checkpointed {
                checkpoint::module(&mut layer, x, run)?
            } else {
                run(&mut layer, x)?
            };
            assert_eq!(choice.dtype(), Dtype::Uint32);
            Ok(vec![squares.sum(None)?.add(scores.sum(None)?)?, choice])
        };
        let (outputs, gradients) = ffi::value_and_grad(loss, &[batch(1, 1)?.x], &[0])?;
        Ok((bits(&gradients[0])?, outputs[1].try_item_cast::<i32>()?))
    };
    assert_eq!(gradients(true)?, gradients(false)?);
    Ok(())
}
