use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Model {
    #[param]
    scale: f32,
}

fn main() {}
