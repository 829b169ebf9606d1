use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(rename = "")]
    layer: Layer,
}

fn main() {}
