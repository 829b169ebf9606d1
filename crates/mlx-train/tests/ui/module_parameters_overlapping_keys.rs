use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param]
    model: Layer,
    #[param(rename = "model.norm")]
    norm: Layer,
}

fn main() {}
