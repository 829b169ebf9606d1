use mlx_train::prelude::*;

#[register_model("model")]
#[derive(Debug, ModuleParameters)]
struct Model;

impl BaseModel for Model {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(x.clone())
    }

    fn loss_fn(&mut self, x: &Array, _: &Array) -> Result<Loss> {
        Ok(Loss::mean_over(x.clone(), 1))
    }
}

fn main() {}
