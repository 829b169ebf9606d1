//! The same numbers to the last bit.

use super::models::{POLICIES, gradients, policy};
use mlx_train_core::Result;

#[test]
fn loss_gradients_and_running_means_are_equal_to_the_last_bit_under_every_policy() -> Result<()> {
    let expected = gradients(&policy("none"))?;
    assert!(expected.iter().all(|bits| bits.iter().any(|&byte| byte != 0)));
    for text in POLICIES {
        assert!(gradients(&policy(text))? == expected, "{text}");
    }
    Ok(())
}
