use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
enum Model {
    A,
}

fn main() {}
