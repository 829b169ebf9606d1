use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(rename = "a", rename = "b")]
    layer: Layer,
}

fn main() {}
