use mlx_train::ModuleParameters;

#[derive(ModuleParameters)]
struct Layer;

#[derive(ModuleParameters)]
struct Model {
    #[param(renam = "lm_head")]
    layer: Layer,
}

fn main() {}
