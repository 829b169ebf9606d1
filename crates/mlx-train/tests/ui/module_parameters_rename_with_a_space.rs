use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(rename = "lm head")]
    layer: Layer,
}

fn main() {}
