use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(rename = "model..head")]
    layer: Layer,
}

fn main() {}
