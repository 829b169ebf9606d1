//! A registered model needs `mlx_train` alone: neither linkme nor serde, and no import.
#![deny(warnings)]
#![forbid(unsafe_code)]

/// Multiplies.
///
/// By its width.
#[mlx_train::register_model("scale", aliases = ["mul", "scale.v1"], tags = ["toy"])]
#[derive(Debug, mlx_train::ModuleParameters)]
pub struct Scale {
    width: i32,
}

/// How much.
#[derive(Debug, Clone, mlx_train::ModelConfig)]
pub struct ScaleConfig {
    #[config(default = 2)]
    width: i32,
}

impl mlx_train::model::FromConfig for Scale {
    type Config = ScaleConfig;

    fn from_config(config: &ScaleConfig) -> mlx_train::Result<Self> {
        Ok(Self { width: config.width })
    }
}

impl mlx_train::model::BaseModel for Scale {
    fn forward(&mut self, x: &mlx_train::Array) -> mlx_train::Result<mlx_train::Array> {
        Ok(x.multiply(mlx_train::Array::from_int(self.width))?)
    }

    fn loss_fn(
        &mut self,
        x: &mlx_train::Array,
        _: &mlx_train::Array,
    ) -> mlx_train::Result<mlx_train::model::Loss> {
        Ok(mlx_train::model::Loss::mean_over(x.clone(), 1))
    }
}

mod excluded {
    // The registration goes with its struct.
    #[mlx_train::register_model("never")]
    #[cfg(any())]
    struct Never;
}

fn main() {
    use mlx_train::registry::ModelRegistry;
    for name in ["scale", "mul", "scale.v1"] {
        let model = ModelRegistry::get_model(name).unwrap();
        assert_eq!(model.name(), "scale");
        assert_eq!(model.tags(), ["toy"]);
        assert_eq!(model.description(), "Multiplies.\n\nBy its width.");
        assert!(model.type_path().ends_with("::Scale"), "{}", model.type_path());
    }
    assert!(ModelRegistry::get_model("never").is_err());
    let mut model = ModelRegistry::get_model("mul").unwrap().build(["width=3"]).unwrap();
    let y = model.forward(&mlx_train::Array::from_int(5)).unwrap();
    assert_eq!(y.try_item_exact::<i32>().unwrap(), 15);
}
