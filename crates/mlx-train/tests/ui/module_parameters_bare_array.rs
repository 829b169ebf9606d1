use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Model {
    #[param]
    weight: mlx_train::Array,
}

fn main() {}
