use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
union Model {
    a: u32,
    b: f32,
}

fn main() {}
