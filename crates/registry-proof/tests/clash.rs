//! A program with a model whose name another crate has taken: never a silent winner.

#![allow(clippy::unwrap_used)]

use mlx_train::prelude::*;

#[derive(Debug, Clone, ModelConfig)]
struct Nothing {}

/// Passes its input on, under the name of a reference model.
#[register_model("mlp")]
#[derive(Debug, ModuleParameters)]
struct Identity;

impl FromConfig for Identity {
    type Config = Nothing;

    fn from_config(_: &Nothing) -> Result<Self> {
        Ok(Self)
    }
}

impl BaseModel for Identity {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.clone())
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::mse(x, y)
    }
}

#[test]
fn a_name_that_two_crates_register_is_refused_with_both_places() {
    let refusals = [
        ModelRegistry::get_model("mlp").map(|_| ()),
        ModelRegistry::describe("mlp").map(|_| ()),
        ModelRegistry::list("m*").map(|_| ()),
        ModelRegistry::all().map(|_| ()),
    ];
    for refused in refusals {
        let refused = refused.unwrap_err().to_string();
        let places = ["crates/models/src/mlp/mod.rs:", "registry-proof/tests/clash.rs:"];
        assert!(places.iter().all(|place| refused.contains(place)), "{refused}");
    }
    assert_eq!(ModelRegistry::list("trans*").unwrap().len(), 1, "others are still listed");
}
