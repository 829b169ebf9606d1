use mlx_train::ModuleParameters;

struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param]
    layer: Layer,
}

fn main() {}
