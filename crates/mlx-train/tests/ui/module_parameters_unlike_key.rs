use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(frozen)]
    layer: Layer,
}

fn main() {}
