//! A program as somebody else would write it: one dependency, one model of its own, no mention of
//! the reference models. It builds every model that it finds and prints a line for each.
//!
//! Registration happens in the linker, and a linker may drop what nothing names. Tests inside of
//! the engine cannot see that; this program, linked like any other, can.

use mlx_train::prelude::*;

/// How many numbers to add.
#[derive(Debug, Clone, ModelConfig)]
struct ProofConfig {
    /// The length of an input.
    #[config(default = 3, range = 1..)]
    width: i32,
}

/// Adds a trained offset.
#[register_model("proof", aliases = ["own"], tags = ["example"])]
#[derive(Debug, ModuleParameters)]
struct Proof {
    #[param]
    offset: Param<Array>,
}

impl FromConfig for Proof {
    type Config = ProofConfig;

    fn from_config(config: &ProofConfig) -> Result<Self> {
        Ok(Self { offset: Param::new(Array::zeros::<f32>(&[config.width])?) })
    }
}

impl BaseModel for Proof {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.add(&self.offset.value)?) // (B, width)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let error = self.forward(x)?.subtract(y)?;
        let count = error.size();
        Ok(Loss::mean_over(error.square()?.mean(None)?, count))
    }
}

#[allow(clippy::print_stdout)] // Its output is what the test reads.
fn main() -> Result<()> {
    for model in ModelRegistry::all()? {
        let built = model.build(())?;
        println!("{} {} {}", model.name(), model.type_path(), built.num_parameters());
    }
    Ok(())
}
