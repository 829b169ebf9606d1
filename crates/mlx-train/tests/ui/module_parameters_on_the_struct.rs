use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
#[param]
struct Model {
    layer: Layer,
}

fn main() {}
