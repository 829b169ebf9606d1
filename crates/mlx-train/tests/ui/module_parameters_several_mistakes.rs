use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
#[param]
struct Model {
    #[param(skip)]
    a: Layer,
    #[param(rename = ".")]
    b: Layer,
    #[param]
    #[param]
    c: Layer,
}

fn main() {}
