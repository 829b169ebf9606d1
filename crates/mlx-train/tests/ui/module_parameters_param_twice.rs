use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param]
    #[param(rename = "head")]
    layer: Layer,
}

fn main() {}
